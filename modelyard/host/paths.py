"""Safe places for files of the hub: paths are untrusted text and never lead out of their folder."""

import unicodedata
from collections.abc import Iterable
from pathlib import Path

_MAX_PART_BYTES = 255
_MAX_PATH_BYTES = 1024
_PART_SUFFIX_BYTES = len(".part")
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in "0123456789¹²³")}
_NOT_EVERYWHERE = set('<>:"|?*')
_OWN_NAMES = {".modelyard.json", "description.txt"}
_OWN_SUFFIXES = (".part", ".jrnl", ".jrn~")
"""Files that a store writes next to those of a model: metadata, and incomplete data."""


def resolve_inside(root: Path, hub_path: str) -> Path:
    """The place of hub_path under root, symbolic links followed; ValueError if it would be outside."""
    parts = _checked_parts(hub_path)
    real_root = root.resolve()
    target = real_root.joinpath(*parts)
    _check_inside(real_root, target, hub_path)
    return target


def resolve_all(folder: Path, hub_paths: Iterable[str]) -> list[Path]:
    """The places of the files of one repository; ValueError unless they are distinct on every file system."""
    names: dict[str, str] = {}
    places = []
    for path in hub_paths:
        places.append(resolve_inside(folder, path))
        for part in path.split("/"):
            _check_portable(part)
            _check_not_own(part)
        same = names.setdefault(unicodedata.normalize("NFC", path).casefold(), path)
        if same != path or len(places) != len(names):
            raise ValueError(
                f"The repository lists {same[:80]!r} and {path[:80]!r}, which some disks hold for one."
            )
    return places


def _check_portable(part: str) -> None:
    if part.split(".")[0].rstrip().lower() in _RESERVED or part[-1] in ". " or _NOT_EVERYWHERE & set(part):
        raise ValueError(
            f"The repository lists a file with a name that not every system allows: {part[:80]!r}."
        )


def _check_not_own(part: str) -> None:
    if part.casefold() in _OWN_NAMES or part.casefold().endswith(_OWN_SUFFIXES):
        raise ValueError(f"The repository lists {part[:80]!r}, a name that a store keeps for itself.")


def has_inside(root: Path, path: str) -> bool:
    """Whether there is something at `path` under root, as `resolve_inside` finds it."""
    try:
        return resolve_inside(root, path).exists()
    except (ValueError, OSError):
        return False


def check_folder(store_root: Path, folder: Path) -> Path:
    """The folder itself, symbolic links followed; ValueError unless it lies strictly under store_root."""
    if not folder.is_absolute() or ".." in folder.parts or "\0" in str(folder):
        raise ValueError(f"The folder {str(folder)!r} must be an absolute path without '..'.")
    if folder.is_relative_to(store_root):
        for part in folder.relative_to(store_root).parts:
            _check_portable(part)
    _check_inside(store_root.resolve(), folder, str(folder))
    return folder.resolve()


def _checked_parts(hub_path: str) -> list[str]:
    shown = repr(hub_path[:80])
    if not hub_path.isprintable() or "\\" in hub_path:
        raise ValueError(f"The path {shown} has characters in it that no path may have.")
    if hub_path.startswith("/") or hub_path[1:2] == ":":
        raise ValueError(f"The path {shown} is an absolute path; give one relative to its folder.")
    parts = hub_path.split("/")
    if any(part in {"", ".", ".."} for part in parts):
        raise ValueError(
            f"The path {shown} is an unsafe path: it must have no empty part, no '.' and no '..'."
        )
    if any(_size_bytes(part) > _MAX_PART_BYTES - _PART_SUFFIX_BYTES for part in parts):
        raise ValueError(f"The path {shown} has a name in it that is too long to keep.")
    if _size_bytes(hub_path) > _MAX_PATH_BYTES:
        raise ValueError(f"The path {shown} is too long to keep.")
    return parts


def _size_bytes(text: str) -> int:
    return len(text.encode())


def _check_inside(real_root: Path, target: Path, shown: str) -> None:
    try:
        real_target = target.resolve()
        target.stat()
    except FileNotFoundError:
        pass
    except (OSError, RuntimeError) as error:  # a RuntimeError is Python 3.11's word for a loop of links
        raise ValueError(f"The path {shown[:80]!r} cannot be followed: {type(error).__name__}.") from error
    if real_target == real_root or not real_target.is_relative_to(real_root):
        raise ValueError(f"The path {shown[:80]!r} leads out of {real_root}.")
