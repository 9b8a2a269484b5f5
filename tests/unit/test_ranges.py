"""Byte ranges compared with sets of integers."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from services.downloader.transfer import ranges
from services.downloader.transfer.ranges import Ranges

SIZE = 40
_RANGE = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE))


def numbers(spans: Ranges) -> set[int]:
    return {number for start, end in spans for number in range(start, end)}


def union_of(added: list[tuple[int, int]]) -> Ranges:
    union: Ranges = ()
    for start, end in added:
        union = ranges.add(union, start, end)
    return union


@given(st.lists(_RANGE), _RANGE)
def test_ranges_behave_like_sets_of_bytes(added: list[tuple[int, int]], queried: tuple[int, int]) -> None:
    union = union_of(added)
    expected = numbers(tuple(added))
    assert numbers(union) == expected
    assert ranges.total_bytes(union) == len(expected)
    assert all(left[1] < right[0] for left, right in pairwise(union)), "sorted and disjoint"
    missing = ranges.gaps(union, *queried)
    assert numbers(missing) == set(range(*queried)) - expected
    assert ranges.frontier(union) == next(n for n in range(SIZE + 1) if n not in expected)


@given(st.lists(_RANGE), st.integers(1, 7))
def test_pieces_cover_the_missing_bytes_within_the_size_limit(
    added: list[tuple[int, int]], size: int
) -> None:
    missing = ranges.gaps(union_of(added), 0, SIZE)
    cut = ranges.pieces(missing, size)
    assert numbers(tuple(cut)) == numbers(missing)
    assert all(0 < end - start <= size for start, end in cut)
