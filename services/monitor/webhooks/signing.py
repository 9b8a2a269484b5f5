"""Signatures as standardwebhooks.com has them, so that receivers can check them with a library."""

import base64
import binascii
import hashlib
import hmac
import os

from schemas.errors import BadRequest
from schemas.webhooks import ID_HEADER, SECRET_PREFIX, SIGNATURE_HEADER, TIME_HEADER

_NEW_BYTES = 32
_MIN_BYTES, _MAX_BYTES = 24, 64


def new_secret() -> str:
    """A fresh secret."""
    return SECRET_PREFIX + base64.b64encode(os.urandom(_NEW_BYTES)).decode()


def check_secret(secret: str) -> str:
    """The secret, if it can be one; BadRequest, which does not repeat it."""
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


def signed(secret: str, number: str, at: int, body: bytes) -> dict[str, str]:
    """The headers that go with a body; `at` in unix seconds lets a receiver refuse what is old."""
    content = f"{number}.{at}.".encode() + body
    digest = hmac.new(_raw(secret) or b"", content, hashlib.sha256).digest()
    return {
        ID_HEADER: number,
        TIME_HEADER: str(at),
        SIGNATURE_HEADER: f"v1,{base64.b64encode(digest).decode()}",
    }
