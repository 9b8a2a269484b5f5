"""Blocking work on files, done in a thread so that the event loop goes on."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from schemas.errors import Conflict
from services.downloader.library import inside

P = ParamSpec("P")
T = TypeVar("T")


async def on_disk(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `work` returns; where the disk says no, Conflict with its reason. FileExistsError passes."""
    try:
        return await asyncio.to_thread(work, *args, **kwargs)
    except FileExistsError:
        raise
    except OSError as error:
        raise Conflict(sentence(error)) from error


def sentence(error: OSError) -> str:
    """Why the disk said no."""
    name = f"{error.filename}: " if isinstance(error.filename, str) else ""
    if isinstance(error, inside.Unsafe):
        return f"{name}a symbolic link is in the way; links are not followed in a store."
    return f"{name}the disk says: {error.strerror or type(error).__name__}."
