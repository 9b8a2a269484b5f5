"""Which series a rule is about, what is past its threshold, and how it is said. Pure."""

import fnmatch
import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping

from schemas.alerts import AlertRule, Comparison
from schemas.metrics import Sample

_BLANK = re.compile(r"\{(\w{1,60})\}")
_MAX_LABEL = 200


def labels_match(wanted: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether every wanted label is so: `*` is any text, a `!` before it turns it round."""
    return all(_matches(pattern, labels.get(name, "")) for name, pattern in wanted.items())


def _matches(pattern: str, value: str) -> bool:
    plain = pattern.removeprefix("!")
    # Of fnmatch's signs only the star: brackets may stand in names.
    found = fnmatch.fnmatchcase(value, plain.replace("[", "[[]").replace("?", "[?]"))
    return found is not pattern.startswith("!")


def series_of(rule: AlertRule, samples: Iterable[Sample]) -> Iterator[Sample]:
    """The samples that a rule is about. What is not a number says nothing."""
    for sample in samples:
        if (
            sample.name == rule.metric
            and not math.isnan(sample.value)
            and labels_match(rule.labels, sample.labels)
        ):
            yield sample


def series_key(rule: str, labels: Mapping[str, str]) -> str:
    """The one key of a series under a rule, in the bucket too."""
    text = "\0".join([rule, *(f"{name}\1{value}" for name, value in sorted(labels.items()))])
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def past(rule: AlertRule, value: float, *, holding: bool) -> bool:
    """Whether the value is past the threshold, or, if it was before, not yet past `clear`."""
    if holding and rule.clear is not None:
        above = rule.comparison in (Comparison.ABOVE, Comparison.AT_LEAST)
        return value > rule.clear if above else value < rule.clear
    match rule.comparison:
        case Comparison.ABOVE:
            return value > rule.threshold
        case Comparison.AT_LEAST:
            return value >= rule.threshold
        case Comparison.BELOW:
            return value < rule.threshold
        case Comparison.AT_MOST:
            return value <= rule.threshold


def sentence(rule: AlertRule, labels: Mapping[str, str], value: float | None) -> str:
    """The rule's sentence about one series; of a metric that is gone, that it is."""
    if value is None:
        return f"{rule.metric}{spelt(labels)} is not there any more."
    text = (
        rule.sentence or f"{rule.metric}{spelt(labels)} is {{value}} ({rule.comparison} {rule.threshold:g})."
    )
    known = {**labels, "value": _number(value), "percent": _number(value * 100)}
    return _BLANK.sub(lambda blank: known.get(blank[1], "?")[:_MAX_LABEL], text)


def _number(value: float) -> str:
    """Short, for people: `91.5`, `1234`."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spelt(labels: Mapping[str, str]) -> str:
    """As metrics are written: `{node="a"}`; nothing for none."""
    parts = ", ".join(f'{name}="{value[:_MAX_LABEL]}"' for name, value in sorted(labels.items()))
    return f"{{{parts}}}" if parts else ""
