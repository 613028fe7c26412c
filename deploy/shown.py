"""Finds the blocks of code that a page of docs/ shows, so that a check can try each of them."""

import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def blocks(page, language):
    """The line of each block, and its text without the page's indentation."""
    text = (ROOT / "docs" / page).read_text()
    for found in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.M | re.S):
        yield text.count("\n", 0, found.start()) + 1, textwrap.dedent(found[1])


def stripped(text):
    return [line.strip() for line in text.splitlines() if line.strip()]


def file_with(text, folder):
    """The file in the folder that has these lines one after the other, whatever their indentation; None if none has."""
    wanted = stripped(text)
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.suffix in (".yaml", ".tpl", ".toml"):
            lines = stripped(file.read_text())
            if any(lines[at:at + len(wanted)] == wanted for at in range(len(lines))):
                return file
    return None


def commands(page):
    """What is typed, those on several lines as one."""
    for _, text in blocks(page, "console"):
        for line in text.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                yield line[2:].split("  #")[0].strip()
