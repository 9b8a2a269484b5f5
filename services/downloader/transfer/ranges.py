"""Byte ranges of a file: `(start, end)` with the end excluded, sorted, disjoint, immutable."""

Range = tuple[int, int]
Ranges = tuple[Range, ...]


def add(ranges: Ranges, start: int, end: int) -> Ranges:
    """The union of ranges and `(start, end)`; adjacent ranges are merged."""
    if start >= end:
        return ranges
    before = tuple(span for span in ranges if span[1] < start)
    after = tuple(span for span in ranges if span[0] > end)
    touched = ranges[len(before) : len(ranges) - len(after)]
    if touched:
        start, end = min(start, touched[0][0]), max(end, touched[-1][1])
    return (*before, (start, end), *after)


def gaps(ranges: Ranges, start: int, end: int) -> Ranges:
    """The bytes between start and end that ranges do not cover."""
    missing = []
    for left, right in ranges:
        if left >= end:
            break
        if left > start:
            missing.append((start, left))
        start = max(start, right)
    if start < end:
        missing.append((start, end))
    return tuple(missing)


def total_bytes(ranges: Ranges) -> int:
    return sum(end - start for start, end in ranges)


def frontier(ranges: Ranges) -> int:
    """The end of the range that begins at byte 0; 0 if there is none."""
    return ranges[0][1] if ranges and ranges[0][0] == 0 else 0


def pieces(missing: Ranges, size_bytes: int) -> list[Range]:
    """The missing ranges cut into pieces of at most size_bytes, in order."""
    return [(at, min(at + size_bytes, end)) for start, end in missing for at in range(start, end, size_bytes)]
