"""Whose URL it is decides whether the token goes along."""

import pytest
from yarl import URL

from services.downloader.origin import same_origin


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("https://hub.test/a", "https://hub.test/b?c", True),
        ("https://hub.test/a", "https://HUB.test:443/b", True),
        ("https://hub.test", "http://hub.test", False),
        ("https://hub.test", "https://hub.test:444", False),
        ("https://hub.test", "https://cdn.hub.test", False),
        ("https://hub.test", "https://hub.test.evil", False),
        ("https://hub.test", "https://hub.test@evil.test", False),
    ],
)
def test_scheme_host_and_port_must_agree(left: str, right: str, same: bool) -> None:
    assert same_origin(URL(left), URL(right)) is same
