"""A command line of llama-server as fields of a spec."""

import re
import shlex
from collections.abc import Callable, Iterator, Sequence

from modelyard.specs.importing.found import Fields, NotTaken
from modelyard.specs.importing.place import Place
from schemas.models import Mode

_FILES = {
    **dict.fromkeys(("-m", "--model"), "path"),
    **dict.fromkeys(("-mm", "--mmproj"), "mmproj"),
    "--chat-template-file": "chat_template",
}
_NUMBERS = {
    **dict.fromkeys(("-c", "--ctx-size"), "n_ctx"),
    **dict.fromkeys(("-np", "--parallel"), "n_parallel"),
}
_MODES = {
    **dict.fromkeys(("--embedding", "--embeddings"), Mode.EMBEDDING),
    **dict.fromkeys(("--reranking", "--rerank"), Mode.RERANK),
}
_CACHE = {
    **dict.fromkeys(("-ctk", "--cache-type-k"), "k"),
    **dict.fromkeys(("-ctv", "--cache-type-v"), "v"),
}
_LORAS = ("--lora", "--lora-scaled")
_OURS = {"--host": 1, "--port": 1, "--metrics": 0, "--slots": 0, "--jinja": 0, "-kvu": 0, "--kv-unified": 0}
"""What the yard says itself, and how many values follow."""
_KEYS = ("--api-key", "--api-key-file")
_OURS |= dict.fromkeys(_KEYS, 1)
_HUB = ("-hf", "-hfr", "--hf-repo", "-hff", "--hf-file", "-mu", "--model-url")
_SCALED = re.compile(r"(.+):([0-9.]+)")


def words_of(text: str) -> list[str]:
    """A command line as a shell reads it; lines that begin with # are comments."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = " ".join(line.rstrip().removesuffix("\\").removesuffix("^") for line in lines)
    windows = re.search(r"(^|[\s\"'])[A-Za-z]:\\", joined) is not None
    try:
        words = shlex.split(joined, posix=not windows)
    except ValueError as error:
        raise NotTaken(f"its command cannot be read ({error})") from error
    return [word.strip("\"'") for word in words] if windows else words


def is_llama_server(word: str) -> bool:
    """Whether a word is the program, wherever it lies."""
    return re.split(r"[/\\]", word)[-1].lower().removesuffix(".exe") == "llama-server"


def read_command(words: Sequence[str], place: Place, note: Callable[[str], None]) -> Fields:
    """The fields that a command line says; NotTaken if it is none of llama-server with a file of its own."""
    env, rest = split_environment(words)
    if not rest or not is_llama_server(rest[0]):
        program = rest[0] if rest else "nothing"
        raise NotTaken(f"it runs {program}, and only command lines of llama-server are understood")
    fields = _Reading(place, note).read(iter(rest[1:]))
    if "path" not in fields:
        raise NotTaken("its command names no model file (--model)")
    return {**fields, **({"env": env} if env else {})}


def split_environment(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The variables in front of a command, and the command itself."""
    env: dict[str, str] = {}
    rest = list(words)
    while rest and re.fullmatch(r"[A-Za-z_]\w*=.*", rest[0], re.DOTALL):
        name, _, value = rest.pop(0).partition("=")
        env[name] = value
    return env, rest


def program_of(words: Sequence[str]) -> str:
    """What a command line starts; empty if it starts nothing."""
    return next(iter(split_environment(words)[1]), "")


class _Reading:
    """One pass over the words."""

    def __init__(self, place: Place, note: Callable[[str], None]) -> None:
        self._place = place
        self._note = note
        self._fields: Fields = {}
        self._args: list[str] = []
        self._loras: list[Fields] = []
        self._cache: dict[str, tuple[str, str]] = {}

    def read(self, words: Iterator[str]) -> Fields:
        for word in words:
            self._take(word, words)
        self._take_cache()
        lists = {"args": self._args, "loras": self._loras}
        return {**self._fields, **{name: each for name, each in lists.items() if each}}

    def _take(self, word: str, words: Iterator[str]) -> None:
        if word in _FILES:
            self._fields[_FILES[word]] = self._place.file(_next(word, words), self._note)
        elif word in _NUMBERS:
            self._take_number(word, _next(word, words))
        elif word in _MODES:
            self._fields["mode"] = _MODES[word].value
        elif word in ("-a", "--alias"):
            self._fields["aliases"] = _next(word, words).split(",")
        elif word in _CACHE:
            self._cache[_CACHE[word]] = (word, _next(word, words))
        elif word in _LORAS:
            self._take_lora(word, words)
        elif not self._skip(word, words):
            self._args.append(word)

    def _skip(self, word: str, words: Iterator[str]) -> bool:
        """Whether the yard says this itself; NotTaken for what it does not let an engine do."""
        if word in _HUB:
            raise NotTaken(f"{word} fetches it from elsewhere; fetch it with `yard pull` instead")
        if word in _KEYS:
            self._note(f"{word} is left out: engines listen on loopback, and the gateway checks keys")
        for _ in range(_OURS.get(word, 0)):
            _next(word, words)
        return word in _OURS

    def _take_number(self, flag: str, text: str) -> None:
        """0 and less mean `as the model says` there, for which we have a default."""
        if not re.fullmatch(r"-?\d+", text):
            raise NotTaken(f"{flag} {text} is no number")
        if int(text) > 0:
            self._fields[_NUMBERS[flag]] = int(text)
        else:
            self._note(f"{flag} {text} is left out; {_NUMBERS[flag]} is as by default")

    def _take_lora(self, flag: str, words: Iterator[str]) -> None:
        for each in _next(flag, words).split(","):
            scaled = _SCALED.fullmatch(each) if flag == "--lora-scaled" else None
            if scaled:
                path, scale = scaled[1], scaled[2]
            else:
                path, scale = each, _next(flag, words) if flag == "--lora-scaled" else "1"
            self._loras.append({"path": self._place.file(path, self._note), "scale": _number(flag, scale)})

    def _take_cache(self) -> None:
        """One type for both is ours; two stay arguments."""
        types = {text for _, text in self._cache.values()}
        if len(self._cache) == 2 and len(types) == 1:
            self._fields["cache_type"] = types.pop()
        else:
            self._args += [word for pair in self._cache.values() for word in pair]


def _next(flag: str, words: Iterator[str]) -> str:
    try:
        return next(words)
    except StopIteration:
        raise NotTaken(f"{flag} at the end of its command has no value") from None


def _number(flag: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise NotTaken(f"{flag} {text} is no number") from None
