"""A command line of llama-server as fields of a spec."""

import re
import shlex
from collections.abc import Iterator, Sequence

from modelyard.cli.importing.result import CannotImport, Fields, Note, StorePaths
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
_OWN_FLAGS = {
    "--host": 1,
    "--port": 1,
    "--metrics": 0,
    "--slots": 0,
    "--jinja": 0,
    "-kvu": 0,
    "--kv-unified": 0,
}
"""Flags that the yard sets itself, and how many values follow."""
_KEYS = ("--api-key", "--api-key-file")
_OWN_FLAGS |= dict.fromkeys(_KEYS, 1)
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
        raise CannotImport(f"its command cannot be read ({error})") from error
    return [word.strip("\"'") for word in words] if windows else words


def is_llama_server(word: str) -> bool:
    """Whether a word is the program, in any folder."""
    return re.split(r"[/\\]", word)[-1].lower().removesuffix(".exe") == "llama-server"


def read_command(words: Sequence[str], paths: StorePaths, note: Note) -> Fields:
    """The fields of a command line; CannotImport unless it starts llama-server with a model file."""
    env, rest = split_environment(words)
    if not rest or not is_llama_server(rest[0]):
        program = rest[0] if rest else "nothing"
        raise CannotImport(f"it runs {program}, and only command lines of llama-server are understood")
    fields = _FlagReader(paths, note).read(iter(rest[1:]))
    if "path" not in fields:
        raise CannotImport("its command names no model file (--model)")
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


class _FlagReader:
    def __init__(self, paths: StorePaths, note: Note) -> None:
        self._paths = paths
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
        return {**self._fields, **{name: items for name, items in lists.items() if items}}

    def _take(self, word: str, words: Iterator[str]) -> None:
        if word in _FILES:
            self._fields[_FILES[word]] = self._paths.file(_next(word, words), self._note)
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
        """Whether the yard sets this flag itself; CannotImport for flags that engines must not have."""
        if word in _HUB:
            raise CannotImport(f"{word} downloads the model; download it with `yard pull` instead")
        if word in _KEYS:
            self._note(f"{word} is left out: engines listen on loopback, and the gateway checks keys")
        for _ in range(_OWN_FLAGS.get(word, 0)):
            _next(word, words)
        return word in _OWN_FLAGS

    def _take_number(self, flag: str, text: str) -> None:
        # There 0 and less mean the model's own value.
        if not re.fullmatch(r"-?\d+", text):
            raise CannotImport(f"{flag} {text} is not a number")
        if int(text) > 0:
            self._fields[_NUMBERS[flag]] = int(text)
        else:
            self._note(f"{flag} {text} is left out; {_NUMBERS[flag]} keeps its default")

    def _take_lora(self, flag: str, words: Iterator[str]) -> None:
        for adapter in _next(flag, words).split(","):
            scaled = _SCALED.fullmatch(adapter) if flag == "--lora-scaled" else None
            if scaled:
                path, scale = scaled[1], scaled[2]
            else:
                path, scale = adapter, _next(flag, words) if flag == "--lora-scaled" else "1"
            self._loras.append({"path": self._paths.file(path, self._note), "scale": _number(flag, scale)})

    def _take_cache(self) -> None:
        # One type for keys and values is a field of a spec; two stay arguments.
        types = {text for _, text in self._cache.values()}
        if len(self._cache) == 2 and len(types) == 1:
            self._fields["cache_type"] = types.pop()
        else:
            self._args += [word for pair in self._cache.values() for word in pair]


def _next(flag: str, words: Iterator[str]) -> str:
    try:
        return next(words)
    except StopIteration:
        raise CannotImport(f"{flag} at the end of its command has no value") from None


def _number(flag: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise CannotImport(f"{flag} {text} is not a number") from None
