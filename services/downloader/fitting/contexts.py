"""How much context a model gets if nobody says: what it was trained for, within reason."""

from schemas.models import Mode

GPU_MOST = 32_768
"""More is seldom used and takes memory from other models."""
CPU_MOST = 16_384
"""Reading a longer prompt would take minutes there."""
VECTORS_MOST = 8_192
LEAST = 4_096
"""With less than this on a GPU, main memory is the better place."""
_UNKNOWN = 8_192


def contexts(n_ctx_train: int | None, mode: Mode, *, on_cpu: bool) -> tuple[int, ...]:
    """The contexts to try, largest first: what it was trained for within reason, and powers of two.

    The last is the least that is worth it; a model that was trained for less gets all it has.
    """
    most = VECTORS_MOST if mode in (Mode.EMBEDDING, Mode.RERANK) else CPU_MOST if on_cpu else GPU_MOST
    largest = max(16, min(n_ctx_train or _UNKNOWN, most))
    least = min(LEAST, largest)
    powers = [2**power for power in range(largest.bit_length(), 3, -1)]
    return (largest, *(n_ctx for n_ctx in powers if least <= n_ctx < largest))


def spell_context(n_ctx: int) -> str:
    """`32k` for 32768."""
    return f"{n_ctx // 1024}k" if n_ctx % 1024 == 0 else str(n_ctx)
