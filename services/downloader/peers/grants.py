"""Tokens for files: random, for one file each, and only for a minute."""

import hmac
import secrets
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from services.downloader.library.walk import StoreFile

TTL_S = 60.0
"""A request that has begun may take longer; whoever begins another one later asks for a new token."""
MAX_OF_ONE_FILE = 256


class Given(NamedTuple):
    """A file of a store as it was when it was promised."""

    root: Path
    file: StoreFile


class Grants:
    """Who may read what now."""

    def __init__(self, ttl_s: float = TTL_S, now: Callable[[], float] = monotonic) -> None:
        self.ttl_s = ttl_s
        self._now = now
        self._grants: dict[str, list[_Grant]] = {}

    def issue(self, sha256: str, given: Given) -> str:
        """A new token for this file; the oldest one goes where there are too many."""
        self._forget_expired()
        grant = _Grant(secrets.token_urlsafe(32).encode(), given, self._now() + self.ttl_s)
        self._grants[sha256] = [*self._grants.get(sha256, []), grant][-MAX_OF_ONE_FILE:]
        return grant.token.decode()

    def check(self, sha256: str, token: str) -> Given | None:
        """What this token opens under this name; every one is compared in constant time."""
        found, asked = None, token.encode(errors="surrogateescape")
        for grant in self._grants.get(sha256, []):
            if hmac.compare_digest(grant.token, asked) and grant.expires_at > self._now():
                found = grant.given
        return found

    def _forget_expired(self) -> None:
        for sha256, grants in list(self._grants.items()):
            living = [grant for grant in grants if grant.expires_at > self._now()]
            if living:
                self._grants[sha256] = living
            else:
                del self._grants[sha256]


class _Grant(NamedTuple):
    token: bytes
    given: Given
    expires_at: float
