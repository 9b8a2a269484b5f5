"""What can be wrong with a GGUF file."""


class GgufError(ValueError):
    """The file is no GGUF model, is cut, or lies about itself; the message is a sentence for the user."""


class NeedMore(Exception):
    """The header goes on behind the bytes at hand: try again with at least `at_least_bytes` of the file."""

    def __init__(self, at_least_bytes: int) -> None:
        super().__init__(f"The header needs at least {at_least_bytes} bytes.")
        self.at_least_bytes = at_least_bytes
