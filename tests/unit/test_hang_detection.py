"""When an engine counts as hung: tables of what is seen of it every ten seconds."""

import pytest

from services.supervisor.runner.hang_detection import HangDetector, LivenessSample

EVERY_S, HANG_S = 10.0, 60.0
ALIVE, DEAD, HEARD, COMPUTES = "alive", "dead", "heard", "computes"


def looks_until_hung(seen: list[str]) -> int | None:
    """How many looks it takes; None if it is never called hung."""
    at_s = cpu_s = 0.0
    heard = 0
    pulse = HangDetector(LivenessSample(at_s=0, healthy=True, received_bytes=0, cpu_s=0), HANG_S)
    for number, sign in enumerate(seen, start=1):
        at_s += EVERY_S
        heard += 100 * (sign == HEARD)
        cpu_s += EVERY_S * (sign == COMPUTES)
        if pulse.is_hung(LivenessSample(at_s=at_s, healthy=sign == ALIVE, received_bytes=heard, cpu_s=cpu_s)):
            return number
    return None


@pytest.mark.parametrize(
    ("seen", "looks"),
    [
        ([ALIVE] * 100, None),
        ([DEAD] * 100, 6),
        ([ALIVE] * 3 + [DEAD] * 100, 9),
        (([DEAD] * 5 + [ALIVE]) * 10, None),
        ([HEARD] * 100, None),
        (([DEAD] * 5 + [HEARD]) * 10, None),
        ([COMPUTES] * 59, None),
        ([COMPUTES] * 100, 60),
        ([COMPUTES] * 20 + [DEAD] * 100, 26),
    ],
    ids=[
        "it answers",
        "it never answers",
        "it answers no more",
        "it answers now and then",
        "it has no word for us, but its answers go on",
        "its answers go on slowly",
        "it computes for long, as at a long prompt",
        "it computes for ever",
        "it computed and stopped",
    ],
)
def test_an_engine_is_hung_only_without_any_sign_of_life(seen: list[str], looks: int | None) -> None:
    assert looks_until_hung(seen) == looks


def test_a_runner_that_stood_still_itself_does_not_blame_its_engine() -> None:
    pulse = HangDetector(LivenessSample(at_s=0, healthy=True, received_bytes=0, cpu_s=0), HANG_S)
    late = [LivenessSample(at_s=at, healthy=False, received_bytes=0, cpu_s=0) for at in (500.0, 510.0, 520.0)]
    assert [pulse.is_hung(one) for one in late] == [False, False, True]
