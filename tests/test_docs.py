"""Links in the documentation resolve, and paths that it names exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.paths import DOCS, ROOT

PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "infra").rglob("*.md")])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
#: A name in backticks is a path of the repository if it begins with one of these.
TOP = ("models/", "transforms/", "pipeline/", "infra/", "tests/", "docs/", "src/", ".ci/")
#: What a path may consist of; anything else in backticks is a command, a pattern or code.
PATH = re.compile(r"[\w./*-]+")
#: Pages about the past may name files of the past.
HISTORY = ("CHANGELOG.md",)


def _links(text: str) -> Iterator[str]:
    for target in LINK.findall(FENCE.sub("", text)):
        if "://" not in target and not target.startswith("mailto:"):
            yield target


def _paths(text: str) -> Iterator[str]:
    for code in CODE.findall(FENCE.sub("", text)):
        if code.startswith(TOP) and PATH.fullmatch(code):
            yield code


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")
        for heading in headings
    }


def broken(page: Path, text: str) -> list[str]:
    """Links and paths in `text` of `page` that lead nowhere."""
    found = []
    for target in _links(text):
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            found.append(target)
    if page.name not in HISTORY:
        found += [path for path in _paths(text) if not any(ROOT.glob(path.rstrip("/")))]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_of_a_page_resolve(page: Path) -> None:
    assert broken(page, page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("[x](no-such-page.md)", "no-such-page.md"),
        ("[x](README.md#no-such-heading)", "README.md#no-such-heading"),
        ("see `models/no_such_room/`", "models/no_such_room/"),
        ("see `tests/bench/no*such.py`", "tests/bench/no*such.py"),
    ],
)
def test_what_leads_nowhere_is_reported(text: str, target: str) -> None:
    assert broken(ROOT / "page.md", text) == [target]


def test_every_page_is_in_the_index() -> None:
    index = {(DOCS / target.partition("#")[0]).resolve() for target in _links(_index())}
    pages = {page for page in DOCS.glob("*.md") if page.name != "README.md"}
    assert pages <= index


def test_every_decision_is_in_the_index_with_its_status() -> None:
    folder = DOCS / "decisions"
    index = (folder / "README.md").read_text(encoding="utf-8")
    for record in sorted(folder.glob("0*.md")):
        text = record.read_text(encoding="utf-8")
        title = re.match(r"# \d{4}\. (.+)\n", text)
        status = re.search(r"^- Status: (.+)$", text, re.MULTILINE)
        date = re.search(r"^- Date: (\d{4}-\d\d-\d\d)$", text, re.MULTILINE)
        assert title, record.name
        assert status, record.name
        assert date, record.name
        row = f"[{title[1]}]({record.name}) | {status[1]} | {date[1]} |"
        assert row in index, record.name


def test_a_record_that_is_superseded_is_named_by_the_one_that_does() -> None:
    folder = DOCS / "decisions"
    for record in folder.glob("0*.md"):
        status = re.search(r"^- Status: superseded by (.+)$", record.read_text(), re.MULTILINE)
        if status:
            last = re.findall(r"\((\S+)\)", status[1])[-1]
            assert record.name in (folder / last).read_text(), record.name


def test_pictures_are_small() -> None:
    pictures = [*(DOCS / "pictures").glob("*.png"), *(DOCS / "pictures").glob("*.svg")]
    assert pictures
    for picture in pictures:
        assert picture.stat().st_size < 300_000, picture.name


def _index() -> str:
    return (DOCS / "README.md").read_text(encoding="utf-8")
