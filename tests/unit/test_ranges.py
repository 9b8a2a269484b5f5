"""Which bytes of a file are there, against sets of numbers."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from services.downloader import ranges
from services.downloader.ranges import Ranges

SIZE = 40
_RANGE = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE))


def numbers(found: Ranges) -> set[int]:
    return {number for start, end in found for number in range(start, end)}


def made_of(added: list[tuple[int, int]]) -> Ranges:
    made: Ranges = ()
    for start, end in added:
        made = ranges.add(made, start, end)
    return made


@given(st.lists(_RANGE), _RANGE)
def test_ranges_are_sets_of_numbers(added: list[tuple[int, int]], asked: tuple[int, int]) -> None:
    made = made_of(added)
    all_of = numbers(tuple(added))
    assert numbers(made) == all_of
    assert ranges.total_bytes(made) == len(all_of)
    assert all(left[1] < right[0] for left, right in pairwise(made)), "sorted and apart"
    missing = ranges.gaps(made, *asked)
    assert numbers(missing) == set(range(*asked)) - all_of
    assert ranges.frontier(made) == next(n for n in range(SIZE + 1) if n not in all_of)


@given(st.lists(_RANGE), st.integers(1, 7))
def test_pieces_are_the_missing_bytes_and_none_is_too_large(added: list[tuple[int, int]], size: int) -> None:
    missing = ranges.gaps(made_of(added), 0, SIZE)
    cut = ranges.pieces(missing, size)
    assert numbers(tuple(cut)) == numbers(missing)
    assert all(0 < end - start <= size for start, end in cut)
