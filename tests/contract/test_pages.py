"""Generated pages are what the code says."""

from pathlib import Path

import pytest

from tools.pages import PAGES

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_current(name: str) -> None:
    page = (DOCS / f"{name}.md").read_text()
    assert page == PAGES[name](), f"python -m tools.pages {name} > docs/{name}.md"
