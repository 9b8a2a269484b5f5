"""Processes that end with the one that started them."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent(number: signal.Signals) -> None:
    """Ask the kernel to send this process `number` when its parent dies (Linux; elsewhere parents tell)."""
    if _libc is None or os.getppid() == 1:
        return
    _libc.prctl(_PR_SET_PDEATHSIG, number.value)
    if os.getppid() == 1:
        # The parent died before the kernel took the order.
        os.kill(os.getpid(), number)


def dying_with_parent(number: signal.Signals) -> Callable[[], None]:
    """A `preexec_fn` that binds the child's life to ours, for programs that cannot do it themselves."""
    return lambda: die_with_parent(number)
