"""The address on which a node serves files, from its settings and its route to the broker."""

import pytest

from modelyard.host.settings import SettingsError, load
from services.downloader.peers.client import advertised_host, file_url, route_address, select_host

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
def test_listen_host_follows_settings_and_route(
    environ: dict[str, str], broker: str | None, host: str
) -> None:
    selected = select_host(load(environ), broker)
    assert selected == host or (broker == "localhost" and selected == "::1")


@pytest.mark.parametrize(
    ("listening", "client", "advertised"),
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
def test_advertised_host_is_reachable_for_the_client(
    listening: str, client: str, advertised: str | None
) -> None:
    assert advertised_host(listening, client) == advertised


def test_an_unroutable_host_gives_loopback() -> None:
    assert route_address("\0") == "127.0.0.1"


def test_file_url_of_ipv4_and_ipv6() -> None:
    assert file_url(LAN, 80, "ab") == "http://192.168.1.20:80/files/ab"
    assert file_url("fe80::1", 80, "ab") == "http://[fe80::1]:80/files/ab"


@pytest.mark.parametrize("value", ["0.0.0.0", "::", "tower", "192.168.1.0/24"])
def test_peer_host_must_be_a_single_address(value: str) -> None:
    with pytest.raises(SettingsError, match="YARD_PEER_HOST"):
        load({"YARD_PEER_HOST": value})
