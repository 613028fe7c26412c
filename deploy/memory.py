"""How much memory the sidecar may need, whatever its clients do, and whether a container keeps to that. The checks of the image, of
`kubernetes` and of `compose` use it.

The figures are measured by `tests/drills/memory`, with the kernel's socket buffers, which count against a container's limit;
docs/capacity.md explains them. KiB, with `max_header_bytes` and `replay_buffer` as they are by default.
"""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

# At rest, with the exec probe, and what is left of a burst.
REST = 16 * 1024
# For each request in progress: its head, its body or its answer, and both connections.
REQUEST = 1200
# For each other connection: a part of a head, or HTTP/2 streams whose answers are not read.
CONNECTION = 760
# Of a limit this part may be used up; the rest is for what was not foreseen, and for pages of the program's file.
PART = 2 / 3
# What the pod and the Compose file ship: MiB, requests, connections on each of two addresses.
SHIPPED = 256, 64, 80
# An ordinary app has so many requests in progress at a time. A container requests as much memory as these take.
ORDINARY = 8


def needed(requests, connections):
    """MiB. `connections`: on all addresses together."""
    return (REST + requests * REQUEST + max(0, connections - requests) * CONNECTION) / 1024


def fault(limit, requests, connections, requested=None):
    """What is wrong with a limit in MiB, or with what is requested of it; None when both suffice."""
    most, least = needed(requests, connections), needed(ORDINARY, ORDINARY)
    if most > limit * PART:
        return f"it may need {most:.0f} MiB, which is more than two thirds of {limit} MiB"
    if requested is not None and not least <= requested <= limit:
        return f"it requests {requested} MiB; an ordinary app takes {least:.0f}, and the limit is {limit}"
    return None


def held(group):
    """What can't be taken away from the processes of a cgroup, and how much of it is socket buffers: bytes. Version 1 counts socket
    buffers apart; here they are added, since version 2, which clusters have, counts them with the rest."""
    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    if (group / "memory.current").exists():
        files = int(stat["inactive_file"]) + int(stat["active_file"])
        return int((group / "memory.current").read_text()) - files, int(stat["sock"])
    sockets = int((group / "memory.kmem.tcp.usage_in_bytes").read_text())
    files = int(stat["total_inactive_file"]) + int(stat["total_active_file"])
    return int((group / "memory.usage_in_bytes").read_text()) - files + sockets, sockets


def group_of(pid):
    """The cgroup in which the kernel counts the memory of a process."""
    lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    for _, controllers, path in lines:
        if "memory" in controllers.split(","):
            group = Path(f"/sys/fs/cgroup/memory{path}")
            if os.access(group / "memory.kmem.tcp.limit_in_bytes", os.W_OK):
                # A limit, however large, makes version 1 count socket buffers.
                (group / "memory.kmem.tcp.limit_in_bytes").write_text(str(1 << 40))
            return group
    return Path(f"/sys/fs/cgroup{lines[0][2]}")


def attack(pid, port, limit, requests, connections, probe, told):
    """Plays a burst, and then a crowd of clients that hardly read, to a container with the process `pid`, whose limits these are (MiB;
    connections on each of two addresses). `probe` runs the container's probe by exec, and tells whether it passed. `told` prints
    an outcome and ends the check when it is bad."""
    group, over, peaks, probes = group_of(pid), threading.Event(), [0, 0], []

    def sample():
        while not over.wait(0.02):
            peaks[:] = map(max, peaks, held(group))

    def ask():
        while not over.wait(1):
            probes.append(probe())

    def clients(stage):
        words = ["nsenter", "--target", str(pid), "--net", sys.executable, str(Path(__file__).with_name("crowd.py"))]
        words = [*([] if os.geteuid() == 0 else ["podman", "unshare"]), *words, stage, *map(str, (port, requests, connections))]
        done = subprocess.run(words, capture_output=True, text=True)
        told(f"the clients of the {stage} came", done.returncode == 0, done.stdout.strip() or done.stderr)

    def given_back():
        """MiB, when it is as little as at rest, or after a minute."""
        end = time.monotonic() + 60
        while (now := held(group)[0] / 1024) > REST and time.monotonic() < end:
            time.sleep(0.2)
        return now / 1024

    threads = [threading.Thread(target=work, daemon=True) for work in (sample, ask)]
    for thread in threads:
        thread.start()
    try:
        for stage in ("burst", "crowd"):
            clients(stage)
            began, now = time.monotonic(), given_back()
            told(f"after the {stage} memory goes back to the system", now * 1024 <= REST,
                 f"{now:.1f} MiB after {time.monotonic() - began:.1f} s, {peaks[0] / 2**20:.1f} at most")
    except FileNotFoundError:
        told("it lives through the burst and the crowd", False, "its cgroup is gone")
    finally:
        over.set()
        for thread in threads:
            thread.join()
    told("a third of its memory was left", peaks[0] < limit * PART * 2**20,
         f"{peaks[0] / 2**20:.1f} of {limit} MiB at most, {peaks[1] / 2**20:.1f} of it socket buffers")
    told("its probe by exec passed all the time", probes and all(probes), f"{len(probes)} times")
