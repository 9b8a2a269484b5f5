"""Answers that come in one piece: embeddings, scores, tokens."""

import msgspec

from schemas.base import Record
from schemas.models import ParameterPolicy
from services.supervisor.runner.dialects.base import Dialect


class _Usage(Record):
    prompt_tokens: int = 0
    input_tokens: int = 0
    completion_tokens: int = 0


class _Answer(Record):
    usage: _Usage | None = None


_decode = msgspec.json.Decoder(_Answer).decode


class Plain(Dialect):
    """Passed on as it is, but for the parameters that the model's owner rules."""

    streams = False

    def __init__(self, content_type: str) -> None:
        super().__init__()
        self._is_json = content_type == "application/json"

    def ask(self, body: bytes, policy: ParameterPolicy) -> bytes:
        return super().ask(body, policy) if self._is_json else body

    def count(self, body: bytes) -> None:
        """Read the usage of a whole answer, if it has one."""
        try:
            usage = _decode(body).usage
        except msgspec.DecodeError:
            return
        if usage is not None:
            self.meter.prompt_tokens = usage.prompt_tokens or usage.input_tokens
            self.meter.completion_tokens = usage.completion_tokens
