# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Every link of the pages leads somewhere: files and headings here; addresses elsewhere are well-formed and of known
hosts, which is as far as a test without a network can see."""

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from doc_pages import PAGES, ROOT, anchors, blocks, links, prose

HOSTS = {"arxiv.org", "github.com", "huggingface.co", "pytorch.org", "docs.pytorch.org", "stonesoup.readthedocs.io"}
OUTSIDE = sorted({(page, link) for page in PAGES for link in links(page) if "://" in link})


def broken_link(page: str, link: str) -> str | None:
    """What is wrong with a link to this repository's own files; None if it is right."""
    path, _, anchor = link.partition("#")
    target = (ROOT / page).parent / path if path else ROOT / page
    if not target.exists():
        return f"{page}: no {link}"
    if not target.resolve().is_relative_to(ROOT):
        return f"{page}: {link} leads out of the repository"
    if anchor and anchor not in anchors(target.resolve().relative_to(ROOT).as_posix()):
        return f"{page}: no heading #{anchor} in {path or page}"
    return None


@pytest.mark.parametrize("page", PAGES)
def test_links_to_files_and_headings(page):
    inside = [link for link in links(page) if "://" not in link]
    assert [problem for link in inside if (problem := broken_link(page, link))] == []


@pytest.mark.parametrize(("page", "link"), OUTSIDE, ids=[f"{page}-{link}" for page, link in OUTSIDE])
def test_links_to_others(page, link):
    parts = urlsplit(link)
    assert parts.scheme == "https" and parts.hostname in HOSTS, f"{page}: {link}"
    assert re.fullmatch(r"[\w\-./~?=&%+#:]+", link) and not link.endswith("."), f"{page}: {link}"


@pytest.mark.parametrize(
    ("link", "words"),
    [
        ("docs/missing.md", "no docs/missing.md"),
        ("README.md#no-such-thing", "no heading #no-such-thing"),
        ("#no-such-thing", "no heading"),
        ("../../elsewhere", "no ../../elsewhere"),
    ],
)
def test_a_wrong_link_is_noticed(link, words):
    assert words in broken_link("README.md", link)


def test_headings_are_named_as_github_does():
    assert "will-it-fit" in anchors("docs/training.md")
    assert "2-build-it-and-look-at-it" in anchors("docs/your_data.md")


@pytest.mark.parametrize("page", PAGES)
def test_files_named_in_sentences_are_there(page):
    """Paths in backticks that begin with a folder of the repository."""
    floors = "modeling_llmi3d|processing|data|evaluation|training|apps|cli"
    folders = rf"(?:{floors}|model_cards|examples|docs|tests)/[\w\-./]+\.(?:py|md|sh|yaml|json)"
    for name in re.findall(rf"`({folders})`", prose(page)):
        assert (ROOT / name).is_file(), f"{page}: no {name}"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "")])
def test_files_of_listings_are_there(page):
    """A block without a language is a listing of the repository, names indented under their folders."""
    for block in blocks(page, ""):
        folders = []
        for line in block.text.splitlines():
            left = re.split(r" {2,}| = ", line.strip())[0]
            depth = (len(line) - len(line.lstrip())) // 2
            for name in re.split(r"[, ]+", left):
                if not re.fullmatch(r"[\w\-]+/?|[\w\-]+(\.\w+)+|[\w\-/]+/", name):
                    continue
                path = Path(*folders[:depth], name)
                assert (ROOT / path).exists(), f"{page}:{block.line}: no {path}"
            if left.endswith("/"):
                folders = [*folders[:depth], left]


def test_every_page_is_linked_from_the_readme():
    """Or from a page that is."""
    seen, new = set(), {"README.md"}
    while new:
        seen |= new
        found = set()
        for page in new:
            for link in links(page):
                path = ((ROOT / page).parent / link.partition("#")[0]).resolve()
                if "://" not in link and path.is_relative_to(ROOT):
                    found.add(path.relative_to(ROOT).as_posix())
        new = found & set(PAGES) - seen
    assert {page for page in PAGES if page.startswith("docs/")} <= seen
