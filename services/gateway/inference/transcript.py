"""What a client has of an answer so far, should somebody else have to go on with it."""

from typing import Any

import msgspec

from schemas.requests import Continues

FOLD_BYTES = 64 * 1024
"""How much is kept as it came before it is read down to its text."""
_any = msgspec.json.Decoder(dict[str, Any])


class Transcript:
    """The chunks of a completion that were passed on. Cheap while all goes well: read only when needed."""

    def __init__(self) -> None:
        self.text = ""
        self.id = ""
        self.created = 0
        self.tokens = 0
        """Chunks that brought text: about a token each."""
        self.finished = False
        """Whether the model had said its last word."""
        self.other = ""
        """What was in the answer beside text, which nobody could go on with."""
        self._raw = bytearray()

    def add(self, piece: bytes) -> None:
        """Note bytes that go to the client."""
        self._raw += piece
        if len(self._raw) > FOLD_BYTES:
            self.fold()

    def fold(self) -> None:
        """Read what was noted."""
        *events, rest = bytes(self._raw).split(b"\n\n")
        self._raw = bytearray(rest)
        for event in events:
            if event.startswith(b"data:") and (data := event[5:].strip()) != b"[DONE]":
                self._read(data)

    def _read(self, data: bytes) -> None:
        try:
            chunk = _any.decode(data)
        except msgspec.DecodeError:
            self.other = "pieces that cannot be read"
            return
        self.id = self.id or chunk.get("id") or ""
        self.created = self.created or chunk.get("created") or 0
        for choice in chunk.get("choices") or ():
            self._read_choice(choice)

    def _read_choice(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta") or {}
        text = choice.get("text") or delta.get("content") or ""
        self.text += text
        self.tokens += bool(text)
        self.finished = self.finished or bool(choice.get("finish_reason"))
        if choice.get("index", 0):
            self.other = "several choices"
        for name in ("tool_calls", "reasoning_content", "function_call"):
            if delta.get(name):
                self.other = name

    def continues(self) -> Continues:
        """For the runner that goes on."""
        return Continues(id=self.id, created=self.created, completion_tokens=self.tokens)
