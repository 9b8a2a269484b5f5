"""Access to the gateway: API keys, and the Host and Origin that browsers send."""

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from modelyard.host.credentials import API_KEYS
from modelyard.host.settings import Settings, SettingsError
from schemas.errors import Forbidden, Unauthorized

_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


class ApiKeys:
    def __init__(self, digests: Iterable[bytes]) -> None:
        self._digests = tuple(digests)

    @classmethod
    def read(cls, folder: Path) -> "ApiKeys":
        """The keys of the key file; none without a file."""
        try:
            lines = (folder / API_KEYS).read_text().splitlines()
        except FileNotFoundError:
            return cls(())
        keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        return cls(_digest(key) for key in keys)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def check(self, key: str | None) -> str | None:
        """The id of a valid key, None where none is needed; Unauthorized otherwise."""
        if not self._digests:
            return None
        digest = _digest(key or "")
        # All are compared, in constant time, so that the time reveals nothing.
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if not any(matches):
            raise Unauthorized(
                "This yard wants an API key: send it as `Authorization: Bearer KEY`."
                if not key
                else "This API key is not valid here."
            )
        return digest.hex()[:12]


def _digest(key: str) -> bytes:
    # A header may have bytes that are no text; they are a wrong key like any other.
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()


def check_exposure(settings: Settings, keys: ApiKeys) -> None:
    """SettingsError if the gateway would listen beyond loopback without keys."""
    if not keys and not _is_loopback(settings.host):
        raise SettingsError(
            f"YARD_HOST={settings.host} would let others in without a key; write at least one API key "
            f"into {settings.credentials / API_KEYS}, or listen on 127.0.0.1."
        )


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


class Origins:
    """The allowed values of Host and Origin: other sites must not use a browser to reach a local yard."""

    def __init__(self, settings: Settings) -> None:
        self._names = _LOCAL_NAMES | {name.lower() for name in (settings.host, *settings.allowed_hosts)}
        # On every interface, behind a key, the address by which a client reaches it is not known.
        self._any_address = not _is_loopback(settings.host)

    def check(self, host: str | None, origin: str | None) -> None:
        """Forbidden for a foreign Host (DNS rebinding) or Origin (another site's page)."""
        if not self._is_allowed(_name(f"//{host or ''}")):
            raise Forbidden(f"The host name {host!r} is not one of ours; YARD_ALLOWED_HOSTS can add it.")
        if origin is not None and not self._is_allowed(_name(origin)):
            raise Forbidden(f"Pages from {origin!r} may not use this yard; YARD_ALLOWED_HOSTS can add it.")

    def _is_allowed(self, name: str) -> bool:
        return name in self._names or (self._any_address and _address(name) is not None)


def _name(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""
