"""JSON merge patches (RFC 7386) on specs."""

from typing import Any

import msgspec

from modelyard.specs.checked import check_fields, spec_from
from schemas.errors import BadRequest
from schemas.models import ModelSpec


def merge_patch(target: Any, patch: Any) -> Any:
    """`target` with `patch` applied as the RFC says: objects are merged, null removes, all else replaces."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def patched(spec: ModelSpec, patch: dict[str, Any]) -> ModelSpec:
    """The spec after `patch`, checked as a whole; BadRequest if it would be none, or have another name."""
    if patch.get("name", spec.name) != spec.name:
        raise BadRequest("A patch does not change the name of a model; rename it instead.", param="name")
    check_fields(patch)
    return spec_from(merge_patch(msgspec.to_builtins(spec), patch))
