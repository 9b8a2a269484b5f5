"""Where the bytes of one file come from: all that a transfer knows of the hub, or of a file without one."""

from msgspec import Struct


class Source(Struct, frozen=True, kw_only=True):
    """A file behind a URL; authorization is the whole header's value and goes to url's origin only."""

    url: str | None
    """None: other nodes are the only source."""
    size_bytes: int
    sha256: str | None
    """Of what is fetched; without it nothing proves the bytes but an ETag that they belong together."""
    blob_sha1: str | None = None
    """Git's name for the bytes of a file without a sha256; it counts where their ETag says the same."""
    commit: str | None = None
    """The commit in url, where the answering side is known to name it."""
    authorization: str | None = None

    def __repr__(self) -> str:
        return f"Source({self.url!r}, {self.size_bytes} bytes)"
