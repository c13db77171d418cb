"""Where runs in the columns of a burst end, found without a Python step for each datagram."""

from __future__ import annotations


def rising_end(values: list[int], start: int) -> int:
    """Return where the numbers stop that rise by one from ``values[start]`` on."""
    low, high, first = start + 1, len(values), values[start]
    while low < high:
        middle = (low + high) // 2
        if values[middle] - first == middle - start:
            low = middle + 1
        else:
            high = middle
    if values[start:low] == list(range(first, first + low - start)):
        return low
    end = start + 1  # repeated or out of order
    while values[end] == values[end - 1] + 1:
        end += 1
    return end


def equal_end(values: list[int], start: int, end: int) -> int:
    """Return where the numbers before *end* stop that equal ``values[start]``."""
    first = values[start]
    if values[start:end].count(first) == end - start:
        return end
    return next(at for at in range(start, end) if values[at] != first)
