"""A copy of this checkout in which each mutant can be put into effect; see README.md beside this file."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# The compiler knows some mutants for what they are.
ALLOWED = "#![allow(warnings, arithmetic_overflow, unconditional_panic)]\n"
MARK = re.compile(rb"/\*\[([0-9,]+)\*/|/\*\]\*/")
NOT_CONST = re.compile(r"cannot call non-const .*`(?:[^`]*::)?(\w+)(?:::<.*>)?`")


def listed(excluded_too):
    """What cargo-mutants makes of the sources: all mutants, or those that no entry of .cargo/mutants.toml excludes."""
    command = ["cargo", "mutants", "--list", "--json", "--package", "careportals-sidecar"]
    if excluded_too:
        command.append("--no-config")
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


class Tree:
    """The copy. `left_out` holds the numbers of mutants that can't be built in, and names of functions that stay `const`."""

    def __init__(self, path, mutants, wanted):
        self.path = Path(path)
        self.mutants = mutants
        self.left_out = {str(number) for number in range(len(mutants))} - {str(number) for number in wanted}
        # What the compiler refused when it last built here it would refuse again, as long as it stands at the same place.
        self.refused_before = self.path / "refused.json"
        if self.refused_before.exists():
            numbers = {mutant["name"]: str(number) for number, mutant in enumerate(mutants)}
            self.left_out |= {numbers.get(name, name) for name in json.loads(self.refused_before.read_text())}
        self.environment = dict(os.environ, SIDECAR_COMMIT="mutants", CARGO_INCREMENTAL="0")
        self.list = self.path / "mutants.json"

    def build(self, targets):
        """Builds the tests of these targets with all mutants in them. Returns the programs in that order, and the mutants that are not in."""
        tool = ["cargo", "build", "--release", "--locked", "--message-format=json"]
        [self.tool] = programs(subprocess.run(tool, cwd=HERE, check=True, stdout=subprocess.PIPE, text=True)).values()
        while True:
            unplaced = self.rewrite()
            refused = self.refused()
            if not refused:
                break
            self.left_out |= refused
            self.remember(refused)
        # Tests of the whole program start the program itself.
        wanted = [word for target in targets for word in (["--lib"] if target == "lib" else ["--bins", "--test", target])]
        built = self.cargo("test", "--no-run", *wanted)
        built.check_returncode()
        built = programs(built)
        return [built[target] for target in targets], unplaced | {int(entry) for entry in self.left_out if entry.isdigit()}

    def remember(self, refused):
        before = json.loads(self.refused_before.read_text()) if self.refused_before.exists() else []
        names = [self.mutants[int(entry)]["name"] if entry.isdigit() else entry for entry in sorted(refused)]
        self.refused_before.write_text(json.dumps(before + names, indent=1))

    def rewrite(self):
        """Copies the sources and builds the mutants into them. Returns those that have no place."""
        names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        for name in filter(None, names.split("\0")):
            copy = self.path / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy)
            shutil.copymode(ROOT / name, copy)
        self.list.write_text(json.dumps(self.mutants))
        left_out = self.path / "left-out"
        left_out.write_text("\n".join(sorted(self.left_out)))
        told = subprocess.run([self.tool, self.list, self.path, left_out], check=True, capture_output=True, text=True).stdout
        shutil.copyfile(HERE / "mutated.rs", self.path / "src" / "mutated.rs")
        self.edit("src/lib.rs", "pub mod account;", ALLOWED + "pub mod account;\npub mod mutated;")
        # Daemons of end-to-end tests have no variables but those that a test gives them.
        passed = 'std::env::vars().filter(|(name, _)| name.starts_with("SIDECAR_MUTANT"))'
        self.edit("tests/it/harness/setup.rs", ".env_clear()", f".env_clear().envs({passed})")
        manifest = self.path / "Cargo.toml"
        manifest.write_text(manifest.read_text() + "\n[profile.dev.package.careportals-sidecar]\ndebug = 0\nopt-level = 1\n")
        return {int(line.split()[0]) for line in told.splitlines()}

    def edit(self, name, before, after):
        file = self.path / name
        text = file.read_text()
        if before not in text:
            raise SystemExit(f"{name} has no {before}")
        file.write_text(text.replace(before, after, 1))

    def cargo(self, *arguments):
        command = ["cargo", *arguments, "--locked", "--message-format=json", "--package", "careportals-sidecar"]
        return subprocess.run(command, cwd=self.path, env=self.environment, stdout=subprocess.PIPE, text=True)

    def refused(self):
        """The mutants around each error of the compiler; empty when there is none."""
        checked = self.cargo("check", "--lib")
        if checked.returncode == 0:
            return set()
        refused, unknown = set(), []
        for message in messages(checked):
            if message["reason"] != "compiler-message" or message["message"]["level"] != "error":
                continue
            error = message["message"]
            around = self.around(error)
            is_const = NOT_CONST.search(error["message"])
            if around:
                refused |= set(around)
            elif is_const:
                refused.add(is_const.group(1))
            elif error["spans"]:
                unknown.append(error["rendered"])
        if not refused - self.left_out:
            raise SystemExit("\n".join(unknown) or "the copy can't be built")
        return refused

    def around(self, error):
        """The mutants whose text an error is about: the innermost ones around it, or for a match that has lost an arm the next."""
        for span in sorted(error["spans"], key=lambda span: not span["is_primary"]):
            while span:
                file = self.path / span["file_name"]
                if span["file_name"].startswith("src/"):
                    text, stack = file.read_bytes(), []
                    for mark in MARK.finditer(text, 0, span["byte_start"]):
                        if mark.group(1):
                            stack.append(mark.group(1).decode())
                        else:
                            stack.pop()
                    if stack:
                        return stack[-1].split(",")
                    if (error.get("code") or {}).get("code") == "E0004":
                        arm = re.compile(rb"/\*\[(\d+)\*/ if !").search(text, span["byte_end"])
                        if arm:
                            return [arm.group(1).decode()]
                span = (span.get("expansion") or {}).get("span")
        return []


def programs(ran):
    """The programs that a run of cargo built, by target; of a target that has tests, the tests."""
    built = [message for message in messages(ran) if message["reason"] == "compiler-artifact" and message.get("executable")]
    built.sort(key=lambda message: message["profile"]["test"])
    return {"lib" if message["target"]["kind"] == ["lib"] else message["target"]["name"]: message["executable"] for message in built}


def messages(ran):
    return [json.loads(line) for line in ran.stdout.splitlines()]
