"""The shell commands that the documentation prints, for the tests that run them: what is printed is what is run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
    ROOT / "examples" / "README.md",
    *sorted(ROOT.glob("infra/**/README.md")),
]
PART = re.compile(r"^(?:#+ (?P<title>[^\n]*)|```(?P<language>\w*)\n(?P<text>.*?)^```)$", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)  # a block: its language, its text
SHELLS = ("sh", "bash", "shell", "console")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `section` is the title above it."""

    page: str
    section: str
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """Its commands, without prompts, comments and output. A command that is continued on the next line is one."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language == "console":
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        return [command for line in lines if (command := without_comment(line))]


def without_comment(line: str) -> str:
    """A line of shell without the comment at its end."""
    for found in re.finditer(r"(?:^|\s)#", line):
        try:
            shlex.split(line[: found.start()])  # not where the # is between quotes
        except ValueError:
            continue
        return line[: found.start()].strip()
    return line.strip()


def all_blocks() -> Iterator[Block]:
    """Every fenced block of every page."""
    for page in PAGES:
        name, section = str(page.relative_to(ROOT)), ""
        for part in PART.finditer(page.read_text(encoding="utf-8")):
            if part["text"] is None:
                section = part["title"] or section
            else:
                yield Block(name, section, part["language"], part["text"])


def shell_blocks() -> list[Block]:
    """Every block of shell commands."""
    return [block for block in all_blocks() if block.language in SHELLS]


def commands(page: str, section: str) -> list[str]:
    """The shell commands below one title of a page."""
    found = [block for block in shell_blocks() if (block.page, block.section) == (page, section)]
    assert found, f"{page} has no commands in '{section}'"
    return [command for block in found for command in block.commands]


def block_of(page: str, section: str, language: str) -> str:
    """The one block of a language below a title of a page."""
    found = [b.text for b in all_blocks() if (b.page, b.section, b.language) == (page, section, language)]
    assert len(found) == 1, f"{page} has {len(found)} blocks of {language} in '{section}'"
    return found[0]
