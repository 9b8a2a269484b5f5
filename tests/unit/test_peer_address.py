"""Where a node is for others, decided from its settings and its way to the broker."""

import pytest

from modelyard.host.settings import SettingsError, load
from services.downloader.peers.address import address_towards, chosen_host, told_host, url

LAN = "192.168.1.20"


@pytest.mark.parametrize(
    ("environ", "broker", "host"),
    [
        ({}, "127.0.0.1", "127.0.0.1"),
        ({}, None, "127.0.0.1"),
        ({}, "localhost", "127.0.0.1"),
        ({}, "127.0.0.7", "127.0.0.1"),
        ({}, "no such name.invalid", "127.0.0.1"),
        ({"YARD_PEER_HOST": LAN}, "127.0.0.1", LAN),
        ({"YARD_NATS_HOST": LAN}, LAN, LAN),
        ({"YARD_NATS_HOST": "0.0.0.0"}, "127.0.0.1", "0.0.0.0"),
        ({"YARD_NATS_HOST": "::1"}, "::1", "::1"),
        ({"YARD_NATS_HOST": LAN, "YARD_JOINED": "yes"}, "127.0.0.1", "127.0.0.1"),
        ({"YARD_NATS_HOST": LAN, "YARD_PEER_HOST": "10.0.0.1"}, LAN, "10.0.0.1"),
    ],
)
def test_where_it_listens(environ: dict[str, str], broker: str | None, host: str) -> None:
    found = chosen_host(load(environ), broker)
    assert found == host or (broker == "localhost" and found == "::1")


@pytest.mark.parametrize(
    ("own", "asker", "told"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "0.0.0.0", "127.0.0.1"),
        ("127.0.0.1", LAN, None),
        ("::1", LAN, None),
        (LAN, "192.168.1.30", LAN),
        (LAN, "127.0.0.1", LAN),
        ("0.0.0.0", "127.0.0.1", "127.0.0.1"),
    ],
)
def test_what_an_asker_is_told(own: str, asker: str, told: str | None) -> None:
    assert told_host(own, asker) == told


def test_a_way_to_nowhere_is_loopback() -> None:
    assert address_towards("\0") == "127.0.0.1"


def test_addresses_of_both_kinds_become_urls() -> None:
    assert url(LAN, 80, "ab") == "http://192.168.1.20:80/files/ab"
    assert url("fe80::1", 80, "ab") == "http://[fe80::1]:80/files/ab"


@pytest.mark.parametrize("value", ["0.0.0.0", "::", "tower", "192.168.1.0/24"])
def test_peers_need_one_address(value: str) -> None:
    with pytest.raises(SettingsError, match="YARD_PEER_HOST"):
        load({"YARD_PEER_HOST": value})
