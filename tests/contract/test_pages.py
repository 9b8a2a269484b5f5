"""Generated pages are what the code says."""

from pathlib import Path

from tools import cli_page, settings_page

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_of_the_command_line_is_current() -> None:
    assert (DOCS / "cli.md").read_text() == cli_page.text(), "python -m tools.cli_page > docs/cli.md"


def test_the_page_of_settings_is_current() -> None:
    page = (DOCS / "settings.md").read_text()
    assert page == settings_page.text(), "python -m tools.settings_page > docs/settings.md"
