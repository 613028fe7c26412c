"""One cell of `faults`, in a process of its own: a fault, the side that has it, and the moment when it begins.

It plays the log-in and the upstream, starts a sidecar between them and the load, and prints as JSON what became of the requests, with
everything in it that should not have happened.
"""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter, namedtuple
from pathlib import Path

from fault_kinds import CLOSED, FAILS, FAULTS, LOGIN, NOTHING, REJECTED, Silence
from fault_server import PASSWORD, Authority, Login, Tokens, Upstream
from http1 import BROKEN, Client, Cut
from programs import free_port, program

RATE = 20
# Requests are sent for this long before the fault begins; it lasts so long.
STEADY, LASTS = 1.0, 3.0
# In a cell of the moment `refresh` tokens live so long: they are renewed after half of it.
SHORT_LIFE = 8
TOKEN_WAIT = 10
DRAIN_DELAY, DRAIN_TIMEOUT = 1, 6
# The longest that a request may take, by who has the fault: two connections and two answers, or the wait for a token.
STALL = {"upstream": 7.0, "login": TOKEN_WAIT + 1.5}
Note = namedtuple("Note", "method sent ended code")


class Names:
    """A hosts file that the sidecar alone sees. Its length never changes: nobody may read half of it."""

    def __init__(self, cell, hosts):
        self.hosts, self.addresses = hosts, {cell.upstream: "127.0.0.1", cell.login: "127.0.0.1"}
        self.write()

    def point(self, side, address):
        self.addresses[side] = address
        self.write()

    def write(self):
        lines = [f"{address or '#':<15} {name}\n" for (side, address), name in zip(self.addresses.items(), ("upstream.test", "login.test"))]
        with open(self.hosts, "r+" if self.hosts.exists() else "w") as hosts:
            hosts.write("127.0.0.1       localhost\n" + "".join(lines))


class Cell:
    def __init__(self, fault, moment, side, folder, hosts):
        self.fault, self.moment, self.folder = fault, moment, folder
        self.authority = Authority(folder)
        self.tokens = Tokens(SHORT_LIFE if moment == "refresh" else 3600)
        protocols = ("h2", "http/1.1") if fault.http2 else ("http/1.1",)
        self.login = Login(free_port(), self.tokens, self.authority.tls())
        self.upstream = Upstream(free_port(), self.tokens, self.authority.tls(protocols))
        self.side_name, self.side = side, self.login if side == LOGIN else self.upstream
        self.names = Names(self, hosts) if hosts else None
        self.notes, self.pending, self.loading, self.wrong = [], {}, True, []
        self.process, self.port, self.telemetry = None, free_port(), free_port()

    # --- the sidecar --------------------------------------------------------------------------------------------------------

    def settle(self, max_age):
        host = lambda name: name if self.names else "127.0.0.1"
        (self.folder / "config.toml").write_text(f"""
access_log = "off"
log_format = "json"
workers = 1
telemetry_listen = "127.0.0.1:{self.telemetry}"
control_socket = "{self.folder}/control.sock"
ca_only_file = "{self.folder}/ca.pem"
drain_delay = "{DRAIN_DELAY}s"
drain_timeout = "{DRAIN_TIMEOUT}s"
[accounts.default]
organization = "drill"
username = {{ file = "{self.folder}/username" }}
password = {{ file = "{self.folder}/password" }}
login_url = "https://{host("login.test")}:{self.login.port}/auth"
relogin_floor = "1s"
login_timeout = "2s"
token_wait = "{TOKEN_WAIT}s"
[apis.default]
upstream = "https://{host("upstream.test")}:{self.upstream.port}"
listen = ["127.0.0.1:{self.port}"]
http2 = "{"auto" if self.fault.http2 else "off"}"
connect_timeout = "2s"
response_timeout = "2s"
body_idle = "2s"
connection_max_age = "{max_age}"
""")

    async def start_sidecar(self):
        (self.folder / "username").write_text("drill")
        (self.folder / "password").write_text(PASSWORD)
        self.settle("5m")
        words = [program("SIDECAR"), "run", "--config", self.folder / "config.toml"]
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=(self.folder / "sidecar").open("wb"),
                                        stderr=subprocess.STDOUT, env={"PATH": os.environ["PATH"]})
        wanted = '"health and metrics"' if self.moment == "first" else '"logged in"'
        end = time.monotonic() + 20
        while wanted not in (self.folder / "sidecar").read_text():
            await asyncio.sleep(0.02)
            if time.monotonic() > end:
                raise SystemExit(f"the sidecar did not start: {(self.folder / 'sidecar').read_text()}")

    async def command(self, word):
        words = [program("SIDECAR"), word, "--control-socket", self.folder / "control.sock"]
        done = await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True, timeout=30)
        if done.returncode != 0:
            self.wrong.append(f"`{word}` ended with {done.returncode}: {done.stderr.strip()}")

    async def logins(self):
        """Log-ins that have ended, well or not."""
        page = await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://127.0.0.1:{self.telemetry}/metrics", timeout=10).read().decode())
        return sum(int(count) for count in re.findall(r"^careportals_sidecar_logins_total\{.*\} (\d+)", page, re.M))

    # --- the load -----------------------------------------------------------------------------------------------------------

    async def load(self):
        self.client, number, start = Client(self.port), 0, time.monotonic()
        while self.loading:
            self.pending[task := asyncio.create_task(self.one(number))] = time.monotonic()
            task.add_done_callback(self.pending.pop)
            number += 1
            await asyncio.sleep(max(0, start + number / RATE - time.monotonic()))

    async def one(self, number):
        method, sent = "POST" if number % 2 else "GET", time.monotonic()
        target = f"/{'odd' if number % 4 == 2 else 'even'}/drill-{number}"
        try:
            code = await asyncio.wait_for(self.ask(method, target, f"drill-{number}"), 30)
        except TimeoutError:
            code = "no_answer_in_time"
        except Cut:
            code = "cut"
        except BROKEN as broken:
            code = type(broken).__name__
        self.notes.append(Note(method, sent, time.monotonic(), code))

    async def ask(self, method, target, name):
        answer = await self.client.exchange(method, target, name.encode() if method == "POST" else b"")
        if code := answer.code():
            return code
        if answer.status != 200:
            return f"{answer.status} /odd" if target.startswith("/odd") and hasattr(self.fault, "path") and self.fault.path else str(answer.status)
        if not answer.body:
            return "empty"
        return "" if name.encode() in answer.body or answer.body == b"-" else "another_answer"

    # --- the play -----------------------------------------------------------------------------------------------------------

    async def play(self):
        await self.login.listen()
        await self.upstream.listen()
        self.fault.prepare(self, self.side)
        self.before = 0
        if self.moment == "first":
            await self.begin()
            await self.start_sidecar()
            loading = asyncio.create_task(self.load())
        else:
            await self.start_sidecar()
            loading = asyncio.create_task(self.load())
            # The token is renewed half a second after the fault begins.
            await asyncio.sleep(SHORT_LIFE / 2 - 0.5 if self.moment == "refresh" else STEADY)
            self.before = await self.logins()
            await self.begin()
        await (self.drain() if self.moment == "drain" else self.last())
        self.loading = False
        await loading
        while self.pending:
            await asyncio.sleep(0.05)
        return self.outcome()

    async def begin(self):
        self.began = time.monotonic()
        self.side.fault = self.fault
        await self.fault.begin(self, self.side)
        self.ends = time.monotonic() + LASTS

    async def last(self):
        """The fault lasts and ends; the load goes on until all is well."""
        if self.moment == "reload":
            await asyncio.sleep(LASTS / 2)
            self.settle("4m")
            await self.command("reload")
        await asyncio.sleep(max(0, self.ends - time.monotonic()))
        self.caused = await self.logins() - self.before
        self.side.fault = None
        await self.fault.end(self, self.side)
        self.ended = time.monotonic()
        if self.side_name == LOGIN and self.fault.effect == REJECTED and self.moment in ("first", "refresh"):
            await self.command("login")
        while (now := time.monotonic()) < self.ended + self.recovers_within() + 3:
            late = any(note.code and note.sent > now - 1.5 for note in self.notes)
            waiting = any(sent < now - 0.5 for sent in self.pending.values())
            if now > self.ended + 2 and not late and not waiting:
                break
            await asyncio.sleep(0.1)

    async def drain(self):
        await asyncio.sleep(0.7)
        self.process.terminate()
        told = time.monotonic()
        await asyncio.sleep(DRAIN_DELAY - 0.2)
        self.caused = await self.logins() - self.before
        self.loading = False
        try:
            code = await asyncio.to_thread(self.process.wait, DRAIN_DELAY + DRAIN_TIMEOUT + 2)
            if code != 0:
                self.wrong.append(f"exit code {code}")
        except subprocess.TimeoutExpired:
            self.wrong.append("it did not end")
        self.ended = time.monotonic()
        self.took = self.ended - told

    # --- the judgement ------------------------------------------------------------------------------------------------------

    def allowed(self, method):
        fault = self.fault
        if self.side_name == LOGIN:
            if self.moment != "first" or fault.effect == NOTHING:
                return set()
            return {"token_pending", "login_failing" if fault.effect == FAILS else "login_rejected"}
        may_be_lost = method == "POST" and (fault.aborts or isinstance(fault, Silence))
        return set(fault.codes) | (CLOSED if may_be_lost else set())

    def logins_allowed(self):
        """While the fault lasts. Attempts that fail are a second apart at least."""
        fault, due = self.fault, self.moment in ("first", "refresh")
        if self.side_name != LOGIN:
            return fault.logins + due
        if not due:
            return fault.logins
        if fault.name in ("429 with seconds", "429 with a date"):
            return 2
        return fault.logins + (LASTS + 1 if fault.effect == FAILS else 1)

    def recovers_within(self):
        if self.side_name == LOGIN and self.fault.effect == FAILS and self.moment in ("first", "refresh"):
            # The third wait is 8 s at most; while one of up to ten is to come, requests wait.
            return 10
        return 2

    def outcome(self):
        if self.process.poll() is not None and self.moment != "drain":
            self.wrong.append(f"the sidecar ended with {self.process.returncode}")
        failed = [note for note in self.notes if note.code]
        for code, count in Counter(f"{note.method} {note.code}" for note in failed if note.code not in self.allowed(note.method)).items():
            self.wrong.append(f"{count} × {code}")
        early = [note for note in failed if note.ended < self.began]
        late = [note for note in failed if note.sent > self.ended + self.recovers_within()]
        if early or late:
            self.wrong.append(f"{len(early)} failed before the fault, {len(late)} long after")
        doubled = [name for name, count in self.upstream.arrived.items() if count > 1]
        if doubled:
            self.wrong.append(f"{len(doubled)} doubled")
        stall = max(note.ended - note.sent for note in self.notes)
        if stall > STALL[self.side_name]:
            self.wrong.append(f"a request took {stall:.1f} s")
        if self.caused > self.logins_allowed():
            self.wrong.append(f"{self.caused} log-ins, and at most {self.logins_allowed():g} are due")
        if self.fault.counts and not self.fault.met and (self.side_name != LOGIN or self.moment in ("first", "refresh")):
            self.wrong.append("the fault was not met")
        if not any(not note.code for note in self.notes):
            self.wrong.append("no request was answered")
        recovered = max((note.sent - self.ended for note in failed), default=0)
        return {
            "sent": len(self.notes), "failed": dict(Counter(note.code for note in failed).most_common()), "doubled": len(doubled),
            "logins": self.caused, "stall": round(stall, 1), "wrong": self.wrong,
            "recovered": f"ended in {self.took:.1f}" if self.moment == "drain" else str(round(max(0, recovered), 1)),
        }


def main():
    side, fault, moment, hosts = (*sys.argv[1:4], Path(sys.argv[4]) if len(sys.argv) > 4 else None)
    [kind] = [each for each in FAULTS if each.name == fault and side in each.sides]
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    cell = Cell(kind, moment, side, folder, hosts)

    async def played():
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        try:
            return await cell.play()
        finally:
            if process := cell.process:
                process.kill()
                process.wait()

    loop = asyncio.new_event_loop()
    outcome = loop.run_until_complete(played())
    if outcome["wrong"]:
        outcome["log"] = (folder / "sidecar").read_text()
    shutil.rmtree(folder)
    print(json.dumps(outcome), flush=True)
    # Connections that hang on purpose are not waited for.
    os._exit(0)


main()
