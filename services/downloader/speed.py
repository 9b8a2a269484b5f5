"""How fast a download is, and how long it will take."""

_WINDOW_S = 5.0


class Speed:
    """Bytes a second over the last seconds."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, int]] = []

    def see(self, now_s: float, bytes_done: int) -> float | None:
        """Take a sample; bytes a second over the window, None until there are two."""
        if self._samples and bytes_done < self._samples[-1][1]:
            self._samples.clear()
        self._samples.append((now_s, bytes_done))
        while len(self._samples) > 2 and self._samples[0][0] < now_s - _WINDOW_S:
            self._samples.pop(0)
        (first_s, first_bytes), (last_s, last_bytes) = self._samples[0], self._samples[-1]
        return (last_bytes - first_bytes) / (last_s - first_s) if last_s > first_s else None


def eta_s(bytes_left: int, speed_bytes_s: float | None) -> float | None:
    """Seconds left at this speed; None where that would be a guess."""
    return round(bytes_left / speed_bytes_s, 1) if speed_bytes_s else None
