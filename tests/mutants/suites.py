"""Runs tests with a mutant in effect; see README.md beside this file."""

import os
import re
import resource
import signal
import subprocess
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic

PASSED, FAILED, TIMEOUT = "passed", "failed", "timeout"
ENDED = re.compile(r"test (\S+).* \.\.\. ")


def limit():
    os.setsid()
    os.nice(10)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class Suite:
    """One test program, and what each of its tests asks about."""

    def __init__(self, program, directory, threads):
        self.program, self.directory, self.threads = program, directory, threads
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CAREPORTALS", "RUST"))}
        # A random case that fails is not kept, and need not be made smaller.
        proptest = {"PROPTEST_DISABLE_FAILURE_PERSISTENCE": "true", "PROPTEST_MAX_SHRINK_ITERS": "0"}
        # More seeds would take minutes for each mutant.
        simulation = {"SIDECAR_SIM_SEEDS": "4"}
        self.environment = kept | proptest | simulation | {"CARGO_MANIFEST_DIR": str(directory), "RUST_BACKTRACE": "0"}
        self.took, self.reached, self.tests_of = {}, {}, {}

    def learn(self, jobs):
        """Runs each test alone, without a mutant. A test that fails then is left out. Returns their names."""
        told = subprocess.run([self.program, "--list", "--format", "terse"], cwd=self.directory, env=self.environment, capture_output=True, text=True)
        names = [line.removesuffix(": test") for line in told.stdout.splitlines() if line.endswith(": test")]
        with ThreadPoolExecutor(jobs) as pool:
            failing = [name for name, passed in zip(names, pool.map(self.learn_of, names)) if not passed]
        for name, numbers in self.reached.items():
            for number in numbers:
                self.tests_of.setdefault(number, []).append(name)
        return failing

    def learn_of(self, name):
        with tempfile.TemporaryDirectory() as directory:
            reached = Path(directory) / "reached"
            began = monotonic()
            outcome, _ = self.run([name], 120, {"SIDECAR_MUTANT_REACHED": str(reached)})
            if outcome != PASSED:
                return False
            self.took[name] = monotonic() - began
            self.reached[name] = {int(line) for line in reached.read_text().split()} if reached.exists() else set()
        return True

    def judge(self, number, module, most):
        """Whether a test fails with the mutant in effect, and which. `most` tests that reach it are tried, the most specific first."""
        for batch in self.batches(sorted(self.tests_of.get(number, []), key=lambda name: self.distance(name, module))[:most]):
            outcome, test = self.run(batch, 20 + 5 * sum(self.took[name] for name in batch), {"SIDECAR_MUTANT": str(number)})
            # An end-to-end test may fail by itself on a busy machine.
            if outcome == FAILED and self.threads > 1 and test in self.took:
                outcome, _ = self.run([test], 30 + 5 * self.took[test], {"SIDECAR_MUTANT": str(number)})
            if outcome != PASSED:
                return outcome, test
        return PASSED, None

    def distance(self, name, module):
        """Tests that take long come last; before them the most specific ones first."""
        return (self.took[name] > 5, not name.startswith(f"{module}::"), len(self.reached[name]), self.took[name])

    def batches(self, tests):
        """A program runs its tests in an order of its own, so each batch takes little longer than all before it."""
        batch, limit = [], 1
        for name in tests:
            if batch and sum(self.took[other] for other in [*batch, name]) > limit:
                yield batch
                batch, limit = [], limit * 2
            batch.append(name)
        if batch:
            yield batch

    def run(self, tests, seconds, variables):
        """Runs tests until one fails: the outcome, and the test that failed or took too long."""
        with tempfile.TemporaryDirectory() as directory:
            # Some tests call as another user.
            os.chmod(directory, 0o755)
            environment = self.environment | variables | {"TMPDIR": directory}
            command = [self.program, "--exact", "--test-threads", str(self.threads), *tests]
            running = subprocess.Popen(
                command, cwd=self.directory, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                preexec_fn=limit, text=True, errors="replace",
            )
            late = threading.Event()
            timer = threading.Timer(seconds, lambda: (late.set(), end(running)))
            timer.start()
            last, failed = None, None
            for line in running.stdout:
                ended = ENDED.match(line)
                last = ended.group(1) if ended else last
                if ended and line.rstrip().endswith("FAILED"):
                    failed = last
                    end(running)
                    break
            timer.cancel()
            running.stdout.close()
            code = running.wait()
        if failed:
            return FAILED, failed
        if late.is_set():
            return TIMEOUT, last
        return (PASSED, None) if code == 0 else (FAILED, f"exit {code} after {last}")


def end(running):
    try:
        os.killpg(running.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
