"""What engines tell of themselves as Prometheus text, under our names for it. Pure."""

import math
import re

import msgspec

from schemas.base import Record

_NAMES = {
    "llamacpp:requests_processing": "busy",
    "llamacpp:requests_deferred": "waiting",
    "llamacpp:prompt_tokens_total": "prompt_tokens",
    "llamacpp:prompt_tokens_cached_total": "cached_tokens",
    "llamacpp:tokens_predicted_total": "completion_tokens",
    "llamacpp:spec_decode_num_draft_tokens_total": "draft_tokens",
    "llamacpp:spec_decode_num_accepted_tokens_total": "accepted_draft_tokens",
    "vllm:num_requests_running": "busy",
    "vllm:num_requests_waiting": "waiting",
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:generation_tokens_total": "completion_tokens",
    "vllm:prefix_cache_hits_total": "cached_tokens",
    "vllm:num_preemptions_total": "preemptions",
    "vllm:kv_cache_usage_perc": "kv_used_ratio",
    "vllm:gpu_cache_usage_perc": "kv_used_ratio",
}
"""vLLM's second name for the last one is that of its older versions."""
_LINE = re.compile(r"([A-Za-z_:][A-Za-z0-9_:]*)(?:\{.*\})?\s+(\S+)(?:\s+\S+)?")


def read_metrics(text: str) -> dict[str, float]:
    """The numbers that we have a name for; those of several series are summed up."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line.strip())
        name = _NAMES.get(match[1]) if match else None
        if match is None or name is None:
            continue
        try:
            value = float(match[2])
        except ValueError:
            continue
        if math.isfinite(value):
            found[name] = found.get(name, 0.0) + value
    return found


class _Token(Record):
    n_decoded: int = 0


class _Slot(Record):
    n_ctx: int = 0
    n_prompt_tokens: int = 0
    next_token: list[_Token] = []  # noqa: RUF012 - msgspec makes a new one each time


def read_kv_used_ratio(slots: str) -> float | None:
    """How full llama.cpp's cache is, which all its slots share, by its list of slots."""
    try:
        listed = msgspec.json.decode(slots, type=list[_Slot])
    except msgspec.DecodeError:
        return None
    size = max((slot.n_ctx for slot in listed), default=0)
    used = sum(slot.n_prompt_tokens + sum(token.n_decoded for token in slot.next_token) for slot in listed)
    return min(used / size, 1.0) if size else None
