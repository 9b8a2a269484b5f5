"""Who may talk to the gateway."""

from pathlib import Path

import pytest

from modelyard.host.settings import Settings, SettingsError
from schemas.errors import Forbidden, Unauthorized
from services.gateway.exposure import Keys, Origins, check_listening


def settings(tmp_path: Path, host: str = "127.0.0.1", *allowed: str) -> Settings:
    return Settings(home=tmp_path, host=host, allowed_hosts=allowed)


def keys(tmp_path: Path, text: str) -> Keys:
    (tmp_path / "api-keys").write_text(text)
    return Keys.read(tmp_path)


def test_without_keys_nobody_is_asked(tmp_path: Path) -> None:
    assert not Keys.read(tmp_path)
    assert Keys.read(tmp_path).check(None) is None


def test_keys_are_told_apart_and_never_shown(tmp_path: Path) -> None:
    both = keys(tmp_path, "# mine\nfirst\n\n  second  \n")
    assert both.check("first") != both.check("second")
    assert "first" not in str(both.check("first"))
    for wrong in (None, "", "third", "first ", "# mine", "\udcff\ud83d"):
        with pytest.raises(Unauthorized):
            both.check(wrong)


@pytest.mark.parametrize(
    ("host", "with_keys", "allowed"),
    [
        ("127.0.0.1", False, True),
        ("::1", False, True),
        ("localhost", False, True),
        ("0.0.0.0", False, False),
        ("::", False, False),
        ("192.168.1.5", False, False),
        ("yard.example", False, False),
        ("0.0.0.0", True, True),
    ],
)
def test_beyond_loopback_only_with_keys(tmp_path: Path, host: str, with_keys: bool, allowed: bool) -> None:
    held = keys(tmp_path, "k\n" if with_keys else "")
    if allowed:
        check_listening(settings(tmp_path, host), held)
    else:
        with pytest.raises(SettingsError, match="YARD_HOST"):
            check_listening(settings(tmp_path, host), held)


@pytest.mark.parametrize(
    ("host", "origin", "allowed"),
    [
        ("127.0.0.1:8080", None, True),
        ("localhost", None, True),
        ("[::1]:8080", None, True),
        ("LOCALHOST:1", "http://localhost:3000", True),
        ("evil.example", None, False),
        ("127.0.0.1.evil.example", None, False),
        ("", None, False),
        (None, None, False),
        ("127.0.0.1", "https://evil.example", False),
        ("127.0.0.1", "null", False),
        ("127.0.0.1", "http://127.0.0.1.evil.example", False),
        ("my.yard", "https://my.yard", True),
        ("192.168.1.5", None, False),
    ],
)
def test_hosts_and_origins(tmp_path: Path, host: str | None, origin: str | None, allowed: bool) -> None:
    origins = Origins(settings(tmp_path, "127.0.0.1", "my.yard"))
    if allowed:
        origins.check(host, origin)
    else:
        with pytest.raises(Forbidden):
            origins.check(host, origin)


def test_on_every_interface_an_address_is_ours_and_a_name_is_not(tmp_path: Path) -> None:
    origins = Origins(settings(tmp_path, "0.0.0.0"))
    origins.check("192.168.1.5:8080", None)
    with pytest.raises(Forbidden):
        origins.check("evil.example", None)
