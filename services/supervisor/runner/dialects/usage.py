"""What an engine says of usage in a stream: one word for all choices, or one for each."""

from collections.abc import Iterable

from schemas.base import Record


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


class Usages:
    """The words of one answer, added up.

    A word without a choice is the last of the whole answer, or of one of its choices; one that comes with a
    choice is about that choice, and replaces what was said of it before. `n` choices share one prompt.
    """

    def __init__(self) -> None:
        self.n = 1
        self._last: list[Usage] = []
        self._of_choice: dict[int, Usage] = {}

    def __bool__(self) -> bool:
        return bool(self._last or self._of_choice)

    def add(self, usage: Usage, choices: Iterable[int]) -> None:
        """Take one word about `choices`."""
        indexes = tuple(choices)
        for index in indexes:
            self._of_choice[index] = usage
        if not indexes:
            self._last.append(usage)

    @property
    def several(self) -> bool:
        """Whether no single word tells it all."""
        return len(self._said) > 1

    @property
    def total(self) -> Usage:
        """All choices together."""
        said = self._said
        shared = self.n if len(said) > 1 else 1
        return Usage(
            prompt_tokens=sum(one.prompt_tokens for one in said) // shared,
            completion_tokens=sum(one.completion_tokens for one in said),
            prompt_tokens_details=_Details(cached_tokens=sum(one.cached_tokens for one in said) // shared),
        )

    @property
    def _said(self) -> tuple[Usage, ...]:
        return tuple(self._last or self._of_choice.values())
