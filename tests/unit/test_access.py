"""Access to the gateway: API keys, exposure, Host and Origin."""

from pathlib import Path

import pytest

from modelyard.host.settings import Settings, SettingsError
from schemas.errors import Forbidden, Unauthorized
from services.gateway.access import ApiKeys, Origins, check_exposure


def settings(tmp_path: Path, host: str = "127.0.0.1", *allowed: str) -> Settings:
    return Settings(home=tmp_path, host=host, allowed_hosts=allowed)


def keys(tmp_path: Path, text: str) -> ApiKeys:
    (tmp_path / "api-keys").write_text(text)
    return ApiKeys.read(tmp_path)


def test_without_a_key_file_no_key_is_needed(tmp_path: Path) -> None:
    assert not ApiKeys.read(tmp_path)
    assert ApiKeys.read(tmp_path).check(None) is None


def test_every_key_has_its_own_id_which_does_not_reveal_it(tmp_path: Path) -> None:
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
def test_the_gateway_listens_beyond_loopback_only_with_keys(
    tmp_path: Path, host: str, with_keys: bool, allowed: bool
) -> None:
    held = keys(tmp_path, "k\n" if with_keys else "")
    if allowed:
        check_exposure(settings(tmp_path, host), held)
    else:
        with pytest.raises(SettingsError, match="YARD_HOST"):
            check_exposure(settings(tmp_path, host), held)


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
def test_foreign_hosts_and_origins_are_refused(
    tmp_path: Path, host: str | None, origin: str | None, allowed: bool
) -> None:
    origins = Origins(settings(tmp_path, "127.0.0.1", "my.yard"))
    if allowed:
        origins.check(host, origin)
    else:
        with pytest.raises(Forbidden):
            origins.check(host, origin)


def test_on_every_interface_any_address_is_allowed_and_no_foreign_name(tmp_path: Path) -> None:
    origins = Origins(settings(tmp_path, "0.0.0.0"))
    origins.check("192.168.1.5:8080", None)
    with pytest.raises(Forbidden):
        origins.check("evil.example", None)
