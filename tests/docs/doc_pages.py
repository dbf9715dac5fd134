# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The repository's pages, taken apart: blocks of code, commands, links, headings."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "model_cards/*/README.md", "examples/**/*.md", ".github/**/*.md")
    for path in ROOT.glob(pattern)
)

# A fence may be indented, in a list.
_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A block of code: the page it is on, its first line there, its language ("" for none) and its text."""

    page: str
    line: int
    language: str
    text: str


def blocks(page: str, *languages: str) -> list[Block]:
    """Blocks of a page in order, of some languages or of all."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = [
        Block(page, text.count("\n", 0, one.start()) + 2, one[2], re.sub(f"(?m)^{one[1]}", "", one[3]))
        for one in _BLOCK.finditer(text)
    ]
    return [one for one in found if not languages or one.language in languages]


def commands(page: str) -> list[list[str]]:
    """Commands of a page's `bash` blocks, as a shell would split them; those that `&&` joins are several."""
    found = []
    for block in blocks(page, "bash"):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while "&&" in words:
                found.append(words[: words.index("&&")])
                words = words[words.index("&&") + 1 :]
            found.append(words)
    return [one for one in found if one]


def prose(page: str) -> str:
    """A page without its blocks of code."""
    return _BLOCK.sub("", (ROOT / page).read_text(encoding="utf-8"))


def links(page: str) -> list[str]:
    """Targets of a page's links and pictures."""
    text = re.sub(r"`[^`\n]*`", "`", prose(page))
    return [one.strip() for one in re.findall(r"\]\(([^)]*)\)", text)]


def anchors(page: str) -> set[str]:
    """Names under which GitHub shows a page's headings."""
    names, seen = set(), {}
    for heading in re.findall(r"^#{1,6} +(.*?) *#*$", prose(page), re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        seen[name] = seen.get(name, -1) + 1
        names.add(name if not seen[name] else f"{name}-{seen[name]}")
    return names
