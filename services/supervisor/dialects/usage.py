"""Token counts of an answer: what an engine reports in a stream, once for all choices or for each."""

from collections.abc import Iterable
from dataclasses import dataclass

from schemas.base import Record


@dataclass
class Meter:
    """The tokens of one request."""

    prompt_tokens: int = 0
    """All of them, those from the cache included."""
    cached_tokens: int = 0
    completion_tokens: int = 0
    tokens_per_s: float | None = None


class _Details(Record):
    cached_tokens: int = 0


class Usage(Record):
    """Tokens as OpenAI counts them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None

    @property
    def cached_tokens(self) -> int:
        return self.prompt_tokens_details.cached_tokens if self.prompt_tokens_details else 0


class UsageTotals:
    """The usage reports of one answer, summed up.

    A report without a choice is the last of the whole answer, or of one of its choices; one with a choice
    is about that choice and replaces the report before it. `n` choices share one prompt.
    """

    def __init__(self) -> None:
        self.n = 1
        self._last: list[Usage] = []
        self._of_choice: dict[int, Usage] = {}

    def __bool__(self) -> bool:
        return bool(self._last or self._of_choice)

    def add(self, usage: Usage, choices: Iterable[int]) -> None:
        """Add one report about `choices`."""
        indexes = tuple(choices)
        for index in indexes:
            self._of_choice[index] = usage
        if not indexes:
            self._last.append(usage)

    @property
    def several(self) -> bool:
        """Whether the total is that of more than one report."""
        return len(self._reports) > 1

    @property
    def total(self) -> Usage:
        reports = self._reports
        shared = self.n if len(reports) > 1 else 1
        return Usage(
            prompt_tokens=sum(usage.prompt_tokens for usage in reports) // shared,
            completion_tokens=sum(usage.completion_tokens for usage in reports),
            prompt_tokens_details=_Details(
                cached_tokens=sum(usage.cached_tokens for usage in reports) // shared
            ),
        )

    @property
    def _reports(self) -> tuple[Usage, ...]:
        return tuple(self._last or self._of_choice.values())
