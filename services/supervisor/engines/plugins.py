"""Engines from YARD_HOME/plugins/engines: Python files of the person who runs the yard.

They are read again whenever they changed. Each defines `engine`, or one class that is an Engine.
"""

import hashlib
import os
import re
import stat
import sys
from importlib.abc import ExecutionLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

from schemas.instances import EngineOffer
from schemas.record import Record
from services.supervisor.engines.base import Engine, checked

_PREFIX = "modelyard_engine_plugin_"
_NOT_OURS = stat.S_IWGRP | stat.S_IWOTH


class _Loaded(Record):
    """One file as it was read: by its content, since times lie."""

    digest: bytes
    engine: Engine | None
    problem: str | None


class _Source(ExecutionLoader):
    """Runs the text that was checked, and keeps no compiled copy that could outlive it."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._text = text

    def get_source(self, fullname: str) -> str:
        return self._text

    def get_filename(self, fullname: str) -> str:
        return str(self._path)


class PluginFolder:
    """The engines of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loaded: dict[Path, _Loaded] = {}

    def look(self) -> tuple[list[Engine], list[EngineOffer]]:
        """The engines that are there now, and the files that cannot be used, each with its reason."""
        try:
            paths = self._paths()
        except (OSError, ValueError) as error:
            self._loaded.clear()
            return [], [
                EngineOffer(engine=f"{self._folder.parent.name}/{self._folder.name}", problem=str(error))
            ]
        self._loaded = {path: self._load(path) for path in paths}
        engines = [one.engine for one in self._loaded.values() if one.engine is not None]
        broken = [
            EngineOffer(engine=path.stem, problem=f"{path}: {one.problem}")
            for path, one in self._loaded.items()
            if one.problem is not None
        ]
        return engines, broken

    def _paths(self) -> list[Path]:
        """Every plugin; what begins with an underscore is for others to import."""
        if not self._folder.is_dir():
            return []
        for folder in (self._folder.parent, self._folder):
            _check_owner(folder.stat(), str(folder))
        return sorted(path for path in self._folder.glob("*.py") if not path.name.startswith("_"))

    def _load(self, path: Path) -> _Loaded:
        try:
            data = _read(path)
        except (OSError, ValueError) as error:
            return _Loaded(digest=b"", engine=None, problem=str(error))
        digest = hashlib.sha256(data).digest()
        before = self._loaded.get(path)
        return before if before is not None and before.digest == digest else _run(path, data, digest)


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


def _run(path: Path, data: bytes, digest: bytes) -> _Loaded:
    name = _PREFIX + re.sub(r"\W", "_", path.stem)
    try:
        module = _module(name, path, data.decode())
        return _Loaded(digest=digest, engine=_engine_of(module), problem=None)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's program may raise anything
        sys.modules.pop(name, None)
        return _Loaded(digest=digest, engine=None, problem=f"{type(error).__name__}: {error}")


def _module(name: str, path: Path, text: str) -> ModuleType:
    loader = _Source(path, text)
    spec = spec_from_loader(name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    # Records and dataclasses look their module up by its name.
    sys.modules[name] = module
    loader.exec_module(module)
    return module


def _engine_of(module: ModuleType) -> Engine:
    """Its `engine`, or an instance of its only engine class; ValueError if there is none, or several."""
    found = getattr(module, "engine", None)
    if found is None:
        kinds = [kind for kind in vars(module).values() if _is_engine_class(kind, module)]
        if len(kinds) != 1:
            raise ValueError(f"It must define `engine`, or one class that is an Engine; it has {len(kinds)}.")
        found = kinds[0]
    return checked(found() if isinstance(found, type) else found)


def _is_engine_class(kind: object, module: ModuleType) -> bool:
    # A protocol with attributes cannot be asked with issubclass.
    return isinstance(kind, type) and kind.__module__ == module.__name__ and Engine in kind.__mro__
