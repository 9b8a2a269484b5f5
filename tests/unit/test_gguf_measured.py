"""How what was measured changes the next estimate."""

import pytest

from modelyard.files.memory import RECENT, Measured, correct


def measured(*used: int, estimated: int = 1000) -> list[Measured]:
    return [Measured(used_bytes=bytes_, estimated_bytes=estimated) for bytes_ in used]


@pytest.mark.parametrize(
    ("same", "similar", "expected"),
    [
        ([], [], 1000),
        (measured(800), [], 824),
        (measured(700, 900, 800), [], 927),
        (measured(1500), [], 1545),
        (measured(9000), [], 9270),
        (measured(100), [], 500),
        (measured(9000, *[800] * RECENT), [], 824),
        (measured(800), measured(2000), 824),
        ([], measured(900), 927),
        ([], measured(450, 400, estimated=500), 927),
        ([], measured(100), 500),
        ([], measured(9000), 2000),
        ([], measured(500, estimated=0), 1000),
    ],
)
def test_correct(same: list[Measured], similar: list[Measured], expected: int) -> None:
    assert correct(1000, same, similar) == expected
