"""The pages of the documentation, and the blocks of code in them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]

#: A block, with the comment above it that says whether it is run.
_BLOCK = re.compile(
    r"(?:^ *<!-- (?P<note>[^\n]*?) -->\n)?^ *```(?P<language>\w*)\n(?P<code>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A block of code on a page.

    Attributes:
        note: `run`, or `run: OLD -> NEW; …` with what a test makes quicker, or `not run: WHY`.
    """

    page: Path
    line: int
    language: str
    code: str
    note: str

    @property
    def is_run(self) -> bool:
        return re.match(r"run\b", self.note) is not None

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def hasten(self) -> str:
        """Return the code with the replacements that its note names, each of which is there."""
        code = self.code
        for change in filter(None, self.note.removeprefix("run").lstrip(": ").split("; ")):
            old, new = change.split(" -> ")
            assert old in code, f"{self.place}: no {old!r}"
            code = code.replace(old, new)
        return code


def read_blocks(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page."""
    text = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("language")) + 1
        code = textwrap.dedent(found["code"])
        yield Block(page, line, found["language"], code, found["note"] or "")


BLOCKS = [block for page in PAGES for block in read_blocks(page)]
