"""Discovers plugins: Python entry points, the built-in ones among them, and a folder of Python files.

A file is loaded again whenever its content changes; a broken one is left out and reported with its reason.
"""

import hashlib
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterable
from functools import cache, partial
from importlib.abc import ExecutionLoader
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from modelyard.host.threads import CallTimeout, TimedCalls

SCAN_TIMEOUT_S = 2.0
"""A scan of a folder waits this long for its files; a slower one is used once it is loaded."""
FILE_TIMEOUT_S = 0.5
"""The least wait for each file: one that hangs must not use up the time of the next ones."""
_BUILT_IN = "services."
_NOT_OURS = stat.S_IWGRP | stat.S_IWOTH


class Named(Protocol):
    name: str


P = TypeVar("P", bound=Named)


class PluginError(NamedTuple):
    """A plugin that cannot be used, and why."""

    name: str
    problem: str
    loading: bool = False
    """Its file is still being run; it may become usable."""


class DiscoveredPlugins(NamedTuple, Generic[P]):
    """Plugins by name, the built-in ones first, and those that could not be loaded."""

    plugins: dict[str, P]
    errors: tuple[PluginError, ...]

    @property
    def complete(self) -> bool:
        return not any(error.loading for error in self.errors)


class PluginKind(Generic[P]):
    """One kind of plugin: `noun` names it in sentences and in files (`engine = …`), `group` its entry points.

    `base`: what a class in a file inherits from. `check` returns a valid plugin, and raises what is wrong.
    """

    def __init__(self, noun: str, group: str, base: type, check: Callable[[Any], P]) -> None:
        self.noun = noun
        self.base = base
        self.installed = cache(self._load_installed)
        """Plugins of installed packages; the environment is read once."""
        self._group = group
        self._check = check
        self._folder: Callable[[Path], PluginFolder[P]] = cache(lambda path: PluginFolder(path, self))

    def discover(self, folder: Path) -> DiscoveredPlugins[P]:
        """All plugins; the folder is scanned each time, installed packages once."""
        installed = self.installed()
        plugins, errors = self._folder(folder).scan()
        return self._merge([*installed.plugins.values(), *plugins], [*installed.errors, *errors])

    def instantiate(self, plugin: Any) -> P:
        """A valid plugin from a class or an instance."""
        return self._check(plugin() if isinstance(plugin, type) else plugin)

    def _merge(self, plugins: Iterable[P], errors: Iterable[PluginError]) -> DiscoveredPlugins[P]:
        """The first plugin of a name gets it."""
        by_name: dict[str, P] = {}
        problems = [*errors]
        for plugin in plugins:
            if plugin.name in by_name:
                module = type(plugin).__module__
                sentence = f"The {self.noun} of {module} needs another name: {plugin.name} is taken."
                problems.append(PluginError(plugin.name, sentence))
            else:
                by_name[plugin.name] = plugin
        return DiscoveredPlugins(by_name, tuple(problems))

    def _load_installed(self) -> DiscoveredPlugins[P]:
        points: dict[str, EntryPoint] = {}
        # Built-in plugins come first: no package can take the name of one.
        for point in sorted(entry_points(group=self._group), key=lambda p: not p.value.startswith(_BUILT_IN)):
            points.setdefault(point.name, point)
        plugins, errors = [], []
        for point in points.values():
            try:
                plugins.append(self.instantiate(point.load()))
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a foreign package may raise anything
                problem = f"{point.value} cannot be loaded: {type(error).__name__}: {error}"
                errors.append(PluginError(point.name, problem))
        return self._merge(plugins, errors)


class _LoadedFile(NamedTuple, Generic[P]):
    """One file as it was loaded, identified by its content: modification times are not reliable."""

    digest: bytes
    plugin: P | None
    problem: str | None
    loading: bool = False


class _SourceLoader(ExecutionLoader):
    """Runs the text that was checked, and writes no compiled copy that could outlive it."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._text = text

    def get_source(self, fullname: str) -> str:
        return self._text

    def get_filename(self, fullname: str) -> str:
        return str(self._path)


class PluginFolder(Generic[P]):
    """The plugins in one folder of the user who runs the yard.

    Each file defines the noun of its kind (`engine = …`), or one class that inherits from the kind's base.
    """

    def __init__(self, folder: Path, kind: PluginKind[P]) -> None:
        self._folder = folder
        self._kind = kind
        self._files: dict[Path, _LoadedFile[P]] = {}
        self._calls = TimedCalls()

    def scan(self) -> tuple[list[P], list[PluginError]]:
        """The plugins that exist now, and the files that cannot be used."""
        try:
            paths = self._paths()
        except (OSError, ValueError) as error:
            self._files.clear()
            return [], [PluginError(f"{self._folder.parent.name}/{self._folder.name}", str(error))]
        deadline = time.monotonic() + SCAN_TIMEOUT_S
        self._files = {
            path: self._load(path, max(deadline - time.monotonic(), FILE_TIMEOUT_S)) for path in paths
        }
        plugins = [file.plugin for file in self._files.values() if file.plugin is not None]
        unusable = ((path, file) for path, file in self._files.items() if file.problem is not None)
        errors = [PluginError(path.stem, f"{path}: {file.problem}", file.loading) for path, file in unusable]
        return plugins, errors

    def _paths(self) -> list[Path]:
        """All plugin files; a leading underscore marks a module that plugins import."""
        if not self._folder.is_dir():
            return []
        for folder in (self._folder.parent, self._folder):
            _check_owner(folder.stat(), str(folder))
        return sorted(path for path in self._folder.glob("*.py") if not path.name.startswith("_"))

    def _load(self, path: Path, timeout_s: float) -> _LoadedFile[P]:
        try:
            data = _read(path)
        except (OSError, ValueError) as error:
            return _LoadedFile(b"", None, str(error))
        digest = hashlib.sha256(data).digest()
        before = self._files.get(path)
        if before is not None and before.digest == digest and not before.loading:
            return before
        return self._run(path, data, digest, timeout_s)

    def _run(self, path: Path, data: bytes, digest: bytes, timeout_s: float) -> _LoadedFile[P]:
        name = "_".join(("modelyard", self._kind.noun, "plugin", re.sub(r"\W", "_", path.stem)))
        run = partial(self._plugin_from_source, name, path, data)
        try:
            return _LoadedFile(digest, self._calls.call((path, digest), run, timeout_s, late=True), None)
        except CallTimeout:
            return _LoadedFile(digest, None, "It is still loading; the yard does not wait for it.", True)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a foreign program may raise anything
            sys.modules.pop(name, None)
            return _LoadedFile(digest, None, f"{type(error).__name__}: {error}")

    def _plugin_from_source(self, name: str, path: Path, data: bytes) -> P:
        module = _execute(name, path, data.decode())
        noun, base = self._kind.noun, self._kind.base
        plugin = getattr(module, noun, None)
        if plugin is None:
            classes = [value for value in vars(module).values() if _is_subclass(value, module, base)]
            if len(classes) != 1:
                needed = f"It must define `{noun}`, or one class that inherits from {base.__name__}"
                raise ValueError(f"{needed}; it has {len(classes)}.")
            plugin = classes[0]
        return self._kind.instantiate(plugin)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        _check_owner(os.fstat(file.fileno()), "It")
        return file.read()


def _check_owner(status: os.stat_result, subject: str) -> None:
    """ValueError if another user owns it or may write to it."""
    if status.st_uid != os.getuid():
        raise ValueError(f"{subject} belongs to another user and is not read.")
    if status.st_mode & _NOT_OURS:
        raise ValueError(f"{subject} can be written by others and is not read; `chmod go-w` changes that.")


def _execute(name: str, path: Path, text: str) -> ModuleType:
    loader = _SourceLoader(path, text)
    spec = spec_from_loader(name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    # Records and dataclasses resolve their module by its name.
    sys.modules[name] = module
    loader.exec_module(module)
    return module


def _is_subclass(value: object, module: ModuleType, base: type) -> bool:
    # `issubclass` refuses a protocol that has attributes.
    return isinstance(value, type) and value.__module__ == module.__name__ and base in value.__mro__
