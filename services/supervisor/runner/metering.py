"""What a request used, counted from what passes by, in bounded memory."""

from dataclasses import dataclass


@dataclass
class Meter:
    """The tokens of one request."""

    prompt_tokens: int = 0
    """All of them, those from the cache included."""
    cached_tokens: int = 0
    completion_tokens: int = 0
    tokens_per_s: float | None = None
