"""The services of a yard, each a process or several; none imports another."""

from modelyard.lean import without

with without("typing_extensions"):
    # Half a megabyte, and msgspec finds all it wants in `typing`.
    import msgspec  # noqa: F401
