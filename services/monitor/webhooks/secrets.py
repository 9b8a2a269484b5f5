"""Secrets of webhooks, each in a file of the yard's user, and signatures as standardwebhooks.com has them."""

import base64
import binascii
import contextlib
import hashlib
import hmac
import os
from collections.abc import Collection
from pathlib import Path

import msgspec

from modelyard.host.settings import Settings
from schemas.base import Record
from schemas.errors import BadRequest
from schemas.webhooks import ID_HEADER, SECRET_PREFIX, SIGNATURE_HEADER, TIME_HEADER

_FOLDER = "webhooks"
_NEW_BYTES = 32
_MIN_BYTES, _MAX_BYTES = 24, 64


class WebhookSecret(Record):
    """The URL and the secret of a webhook; neither is ever published."""

    url: str
    secret: str


class WebhookSecrets:
    def __init__(self, settings: Settings) -> None:
        self._folder = settings.credentials / _FOLDER

    def read(self, name: str) -> WebhookSecret | None:
        """None if the file is missing or damaged."""
        try:
            return msgspec.json.decode(self._path(name).read_bytes(), type=WebhookSecret)
        except (OSError, msgspec.DecodeError):
            return None

    def write(self, name: str, secret: WebhookSecret) -> None:
        """Atomic, by a rename."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = self._path(name).with_suffix(f".{os.getpid()}")
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(msgspec.json.encode(secret))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path(name))

    def delete(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)

    def delete_except(self, names: Collection[str]) -> None:
        """Delete every file that belongs to none of these webhooks."""
        with contextlib.suppress(OSError):
            for path in self._folder.iterdir():
                if path.suffix != ".json" or path.stem not in names:
                    path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"


def new_secret() -> str:
    return SECRET_PREFIX + base64.b64encode(os.urandom(_NEW_BYTES)).decode()


def check_secret(secret: str) -> str:
    """The secret if it is valid; BadRequest, which does not repeat it."""
    if not _MIN_BYTES <= len(_raw(secret) or b"") <= _MAX_BYTES:
        raise BadRequest(
            f"A secret is {SECRET_PREFIX} and base64 of {_MIN_BYTES} to {_MAX_BYTES} bytes.", param="secret"
        )
    return secret


def _raw(secret: str) -> bytes | None:
    if not secret.startswith(SECRET_PREFIX):
        return None
    try:
        return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        return None


def signature_headers(secret: str, event_id: str, at: int, body: bytes) -> dict[str, str]:
    """The headers of a signed body; `at` in unix seconds lets a receiver refuse replays."""
    content = f"{event_id}.{at}.".encode() + body
    digest = hmac.new(_raw(secret) or b"", content, hashlib.sha256).digest()
    return {
        ID_HEADER: event_id,
        TIME_HEADER: str(at),
        SIGNATURE_HEADER: f"v1,{base64.b64encode(digest).decode()}",
    }
