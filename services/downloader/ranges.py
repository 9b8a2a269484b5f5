"""Which bytes of a file are there: ranges `(start, end)`, sorted, apart, never changed in place."""

Range = tuple[int, int]
Ranges = tuple[Range, ...]


def add(ranges: Ranges, start: int, end: int) -> Ranges:
    """The ranges and one more; what touches becomes one."""
    if start >= end:
        return ranges
    before = tuple(each for each in ranges if each[1] < start)
    after = tuple(each for each in ranges if each[0] > end)
    touched = ranges[len(before) : len(ranges) - len(after)]
    if touched:
        start, end = min(start, touched[0][0]), max(end, touched[-1][1])
    return (*before, (start, end), *after)


def gaps(ranges: Ranges, start: int, end: int) -> Ranges:
    """What is missing between start and end."""
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
    """How many bytes are there."""
    return sum(end - start for start, end in ranges)


def frontier(ranges: Ranges) -> int:
    """Up to where everything from the first byte on is there."""
    return ranges[0][1] if ranges and ranges[0][0] == 0 else 0


def pieces(missing: Ranges, size_bytes: int) -> list[Range]:
    """The missing ranges cut into pieces of at most size_bytes, in their order."""
    return [(at, min(at + size_bytes, end)) for start, end in missing for at in range(start, end, size_bytes)]
