"""The token is sent to URLs of the same origin only."""

import pytest
from yarl import URL

from services.downloader.transfer.http import same_origin


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
def test_same_origin_means_equal_scheme_host_and_port(left: str, right: str, same: bool) -> None:
    assert same_origin(URL(left), URL(right)) is same
