"""When an engine counts as hung: tables of liveness samples, one every ten seconds."""

import pytest

from services.supervisor.runner.liveness import HangDetector, LivenessSample

EVERY_S, HANG_S = 10.0, 60.0
HEALTHY, SILENT, STREAMS, COMPUTES = "healthy", "silent", "streams", "computes"


def samples_until_hung(signs: list[str]) -> int | None:
    """The number of the sample at which the engine counts as hung; None if it never does."""
    at_s = cpu_s = 0.0
    received = 0
    detector = HangDetector(LivenessSample(at_s=0, healthy=True, received_bytes=0, cpu_s=0), HANG_S)
    for number, sign in enumerate(signs, start=1):
        at_s += EVERY_S
        received += 100 * (sign == STREAMS)
        cpu_s += EVERY_S * (sign == COMPUTES)
        if detector.is_hung(
            LivenessSample(at_s=at_s, healthy=sign == HEALTHY, received_bytes=received, cpu_s=cpu_s)
        ):
            return number
    return None


@pytest.mark.parametrize(
    ("signs", "samples"),
    [
        ([HEALTHY] * 100, None),
        ([SILENT] * 100, 6),
        ([HEALTHY] * 3 + [SILENT] * 100, 9),
        (([SILENT] * 5 + [HEALTHY]) * 10, None),
        ([STREAMS] * 100, None),
        (([SILENT] * 5 + [STREAMS]) * 10, None),
        ([COMPUTES] * 59, None),
        ([COMPUTES] * 100, 60),
        ([COMPUTES] * 20 + [SILENT] * 100, 26),
    ],
    ids=[
        "always healthy",
        "never healthy",
        "healthy, then silent",
        "healthy now and then",
        "unhealthy, but it streams",
        "it streams slowly",
        "it computes, as in a long prompt",
        "it computes for too long",
        "it computed, then silent",
    ],
)
def test_an_engine_is_hung_only_without_a_sign_of_life(signs: list[str], samples: int | None) -> None:
    assert samples_until_hung(signs) == samples


def test_a_suspended_runner_does_not_blame_its_engine() -> None:
    detector = HangDetector(LivenessSample(at_s=0, healthy=True, received_bytes=0, cpu_s=0), HANG_S)
    late = [LivenessSample(at_s=at, healthy=False, received_bytes=0, cpu_s=0) for at in (500.0, 510.0, 520.0)]
    assert [detector.is_hung(sample) for sample in late] == [False, False, True]
