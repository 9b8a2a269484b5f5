"""The documents: links lead to files, lines are short, and the README stays short."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
_LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_to_files(page: Path) -> None:
    targets = [page.parent / link for link in _LINK.findall(page.read_text())]
    assert not [str(target) for target in targets if not target.exists()]


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs" / "design").glob("*.md"))])
def test_lines_are_under_120_characters(page: Path) -> None:
    assert not [line for line in page.read_text().splitlines() if len(line) >= 120]


def test_the_readme_has_at_most_200_lines() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200
