"""File names in GGUF repositories: quant, shard number and kind."""

import re

from msgspec import Struct

_QUANT = re.compile(
    r"(?<![A-Za-z0-9])"
    r"((?:UD-)?(?:"
    r"(?:I?Q[1-9]|TQ[12])(?:_(?:[0-9]{1,2}|K|KS|KSS|KL|KT|XXS|XS|S|M|L|XL|XXL|NL|MOE|P|R4|R8))*"
    r"|MXFP4(?:_MOE)?|NVFP4|BF16|FP?16|FP?32))"
    r"(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")

DEFAULT_QUANTS = (
    *("Q4_K_M", "UD-Q4_K_XL", "Q4_K_S", "Q4_K_L", "IQ4_NL", "IQ4_XS", "MXFP4_MOE", "MXFP4", "Q4_1", "Q4_0"),
    *("Q5_K_M", "Q5_K_S", "UD-Q5_K_XL", "Q6_K", "UD-Q6_K_XL", "Q8_0", "Q3_K_M", "BF16", "F16"),
)
"""The default quants in order of preference: small loss, fits most machines."""


class GgufName(Struct, frozen=True, kw_only=True):
    """The parts of a GGUF file name; `shard` counts from 1."""

    stem: str
    quant: str | None
    shard: int
    shards: int
    is_mmproj: bool


def parse_name(path: str) -> GgufName | None:
    """The parts of a path in a repository; None if it is no model file (an imatrix is none)."""
    folder, _, name = path.rpartition("/")
    if not name.lower().endswith(".gguf") or "imatrix" in name.lower():
        return None
    stem = name[: -len(".gguf")]
    shard = _SHARD.search(stem)
    if shard and not 1 <= int(shard[1]) <= int(shard[2]):
        shard = None
    if shard:
        stem = stem[: shard.start()]
    return GgufName(
        stem=f"{folder}/{stem}" if folder else stem,
        quant=_last_quant(stem) or _last_quant(folder),
        shard=int(shard[1]) if shard else 1,
        shards=int(shard[2]) if shard else 1,
        is_mmproj="mmproj" in name.lower(),
    )


def label_of_file(path: str) -> str | None:
    """The label that selects this file after a colon: its quant, or else its name without the suffix."""
    name = parse_name(path)
    return None if name is None else name.quant or name.stem.rpartition("/")[2]


def normal_quant(quant: str) -> str:
    """The canonical spelling of a quant: upper case, F16 for FP16."""
    return re.sub(r"^FP(?=16$|32$)", "F", quant.upper())


def _last_quant(text: str) -> str | None:
    quants = _QUANT.findall(text)
    return normal_quant(quants[-1]) if quants else None
