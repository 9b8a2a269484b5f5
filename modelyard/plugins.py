"""Finding what others add: Python entry points, ours among them, and a folder of Python files.

A file is read again whenever it changed; one that is broken is left out with its reason.
"""

import hashlib
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from importlib.abc import ExecutionLoader
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from modelyard.host.threads import CallTimeout, TimedCalls

TIMEOUT_S = 2.0
"""So long a look at a folder waits for its files; one that takes longer is taken when it is ready."""
LEAST_TIMEOUT_S = 0.5
"""So long it waits for each of them, once: one that hangs must not make others look as if they did."""
_NOT_OURS = stat.S_IWGRP | stat.S_IWOTH


class Named(Protocol):
    """What a plugin is at least."""

    name: str


P = TypeVar("P", bound=Named)


class Broken(NamedTuple):
    """One that cannot be used, and why."""

    name: str
    problem: str
    at_work: bool = False
    """It may be used yet: its file is still being run."""


class Found(NamedTuple, Generic[P]):
    """Plugins by name, in order of preference, and what could not be loaded."""

    plugins: dict[str, P]
    broken: tuple[Broken, ...]


class Sort(Generic[P]):
    """One sort of plugin: `word` names it in sentences and in files (`engine = …`).

    `base`: what a class in a file inherits from. `checked` returns what is one, and raises what is wrong.
    """

    def __init__(
        self, word: str, group: str, built_in: Mapping[str, str], base: type, checked: Callable[[Any], P]
    ) -> None:
        self.word = word
        self.group = group
        self.built_in = built_in
        """Ours, in order of preference; entry points too, which a source tree does not have."""
        self.base = base
        self.checked = checked
        self.installed = cache(self._installed)
        """Those of the packages; what is installed is looked at once."""
        self._folder: Callable[[Path], PluginFolder[P]] = cache(lambda path: PluginFolder(path, self))

    def find(self, folder: Path) -> Found[P]:
        """What there is now. The folder is looked at anew; installed packages are those of the start."""
        installed = self.installed()
        plugins, broken = self._folder(folder).look()
        return self._merged([*installed.plugins.values(), *plugins], [*installed.broken, *broken])

    def made(self, found: Any) -> P:
        """A plugin from a class or from an instance."""
        return self.checked(found() if isinstance(found, type) else found)

    def _merged(self, found: Iterable[P], broken: Iterable[Broken]) -> Found[P]:
        """The first of a name has it."""
        plugins: dict[str, P] = {}
        problems = [*broken]
        for one in found:
            if one.name in plugins:
                where = type(one).__module__
                sentence = f"The {self.word} of {where} needs another name: {one.name} is taken."
                problems.append(Broken(one.name, sentence))
            else:
                plugins[one.name] = one
        return Found(plugins, tuple(problems))

    def _installed(self) -> Found[P]:
        points = {name: EntryPoint(name, value, self.group) for name, value in self.built_in.items()}
        for point in entry_points(group=self.group):
            points.setdefault(point.name, point)
        plugins, broken = [], []
        for name, point in points.items():
            try:
                plugins.append(self.made(point.load()))
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's package may raise anything
                problem = f"{point.value} cannot be loaded: {type(error).__name__}: {error}"
                broken.append(Broken(name, problem))
        return self._merged(plugins, broken)


class _Loaded(NamedTuple, Generic[P]):
    """One file as it was read: by its content, since times lie. Not `done`: it is still being run."""

    digest: bytes
    plugin: P | None
    problem: str | None
    done: bool = True


class _Source(ExecutionLoader):
    """Runs the text that was checked, and keeps no compiled copy that could outlive it."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._text = text

    def get_source(self, fullname: str) -> str:
        return self._text

    def get_filename(self, fullname: str) -> str:
        return str(self._path)


class PluginFolder(Generic[P]):
    """The plugins of one folder: files of the person who runs the yard.

    Each defines the word of its sort (`engine = …`), or one class that inherits from the sort's base.
    """

    def __init__(self, folder: Path, sort: Sort[P]) -> None:
        self._folder = folder
        self._sort = sort
        self._loaded: dict[Path, _Loaded[P]] = {}
        self._patience = TimedCalls()

    def look(self) -> tuple[list[P], list[Broken]]:
        """Those that are there now, and the files that cannot be used, each with its reason."""
        try:
            paths = self._paths()
        except (OSError, ValueError) as error:
            self._loaded.clear()
            return [], [Broken(f"{self._folder.parent.name}/{self._folder.name}", str(error))]
        until = time.monotonic() + TIMEOUT_S
        self._loaded = {
            path: self._load(path, max(until - time.monotonic(), LEAST_TIMEOUT_S)) for path in paths
        }
        plugins = [one.plugin for one in self._loaded.values() if one.plugin is not None]
        broken = [
            Broken(path.stem, f"{path}: {one.problem}", at_work=not one.done)
            for path, one in self._loaded.items()
            if one.problem is not None
        ]
        return plugins, broken

    def _paths(self) -> list[Path]:
        """Every plugin; what begins with an underscore is for others to import."""
        if not self._folder.is_dir():
            return []
        for folder in (self._folder.parent, self._folder):
            _check_owner(folder.stat(), str(folder))
        return sorted(path for path in self._folder.glob("*.py") if not path.name.startswith("_"))

    def _load(self, path: Path, timeout_s: float) -> _Loaded[P]:
        try:
            data = _read(path)
        except (OSError, ValueError) as error:
            return _Loaded(b"", None, str(error))
        digest = hashlib.sha256(data).digest()
        before = self._loaded.get(path)
        known = before is not None and before.digest == digest and before.done
        return before if known and before is not None else self._run(path, data, digest, timeout_s)

    def _run(self, path: Path, data: bytes, digest: bytes, timeout_s: float) -> _Loaded[P]:
        name = "_".join(("modelyard", self._sort.word, "plugin", re.sub(r"\W", "_", path.stem)))
        run = partial(self._made_of, name, path, data)
        try:
            return _Loaded(digest, self._patience.call((path, digest), run, timeout_s, late=True), None)
        except CallTimeout:
            return _Loaded(digest, None, "It does not come to its end; nobody waits for it.", done=False)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's program may raise anything
            sys.modules.pop(name, None)
            return _Loaded(digest, None, f"{type(error).__name__}: {error}")

    def _made_of(self, name: str, path: Path, data: bytes) -> P:
        return self._plugin_of(_module(name, path, data.decode()))

    def _plugin_of(self, module: ModuleType) -> P:
        """What it names, or an instance of its only class; ValueError if there is none, or several."""
        word, base = self._sort.word, self._sort.base
        found = getattr(module, word, None)
        if found is None:
            kinds = [kind for kind in vars(module).values() if _is_class_of(kind, module, base)]
            if len(kinds) != 1:
                what = f"It must define `{word}`, or one class that inherits from {base.__name__}"
                raise ValueError(f"{what}; it has {len(kinds)}.")
            found = kinds[0]
        return self._sort.made(found)


def _read(path: Path) -> bytes:
    """The content of a file that nobody else can have written; ValueError otherwise."""
    with path.open("rb") as file:
        _check_owner(os.fstat(file.fileno()), "It")
        return file.read()


def _check_owner(status: os.stat_result, what: str) -> None:
    if status.st_uid != os.getuid():
        raise ValueError(f"{what} belongs to another user and is not read.")
    if status.st_mode & _NOT_OURS:
        raise ValueError(f"{what} can be written by others and is not read; `chmod go-w` changes that.")


def _module(name: str, path: Path, text: str) -> ModuleType:
    loader = _Source(path, text)
    spec = spec_from_loader(name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    # Records and dataclasses look their module up by its name.
    sys.modules[name] = module
    loader.exec_module(module)
    return module


def _is_class_of(kind: object, module: ModuleType, base: type) -> bool:
    # A protocol with attributes cannot be asked with issubclass.
    return isinstance(kind, type) and kind.__module__ == module.__name__ and base in kind.__mro__
