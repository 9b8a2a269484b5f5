"""Quantities as text."""

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def format_bytes(count: float) -> str:
    """Bytes in binary units, as the page shows them: `731 B`, `4.9 MiB`, `512 MiB`, `13.2 GiB`."""
    value, unit = max(0.0, float(count)), 0
    # 1023.95 would print as 1024.0
    while value >= (1023.95 if unit else 1024) and unit < len(_UNITS) - 1:
        value /= 1024
        unit += 1
    digits = 0 if unit == 0 or value >= 99.95 else 1
    return f"{value:.{digits}f} {_UNITS[unit]}"
