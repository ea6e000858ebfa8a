"""Every link and picture of the documents leads somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(path for place in ("", "docs/**/", "videos/", "benchmarks/") for path in ROOT.glob(f"{place}*.md"))


def prose(path):
    """Return the text of a document without its fenced blocks."""
    return re.sub(r"^[ ]*```.*?^[ ]*```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def slug(heading):
    """Return the anchor that a heading gets."""
    kept = re.sub(r"[^\w\- ]", "", re.sub(r"`|\*|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower())
    return kept.replace(" ", "-")


def anchors(path):
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)}


def broken_links(path):
    text = prose(path)
    targets = re.findall(r"\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    for target in targets:
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name) if name else path
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            yield target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_and_pictures_of_a_document_exist(path):
    assert list(broken_links(path)) == []


def test_planted_dead_links_are_found(tmp_path):
    page = tmp_path / "page.md"
    links = '[a](#the-one-thing) [b](#other) ![c](no.png) <img src="no.gif"> [d](https://x.y) [e](page.md)'
    page.write_text(f"# The `one` thing\n{links}\n")
    assert list(broken_links(page)) == ["#other", "no.png", "no.gif"]
