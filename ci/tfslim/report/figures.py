"""Figures as a reader sees them: with a unit, a sign where they are a change, and never a "nan"."""

from __future__ import annotations

import math

from tfslim.ui import human_bytes

__all__ = [
    "MISSING",
    "NOT_MEASURED",
    "change",
    "count",
    "number",
    "percent",
    "quantity",
    "rate",
    "size",
]

MISSING = "–"
NOT_MEASURED = "not measured"
NOT_A_FIGURE = "not a figure"  # a record says NaN, infinity, or less than nothing
_LARGEST = 1e18
_GROUP = "\u00a0"  # between groups of three digits: a space that no line ends at


def size(count_bytes: float | None) -> str:
    """Return a number of bytes in decimal units."""
    if count_bytes is None:
        return NOT_MEASURED
    if not 0 <= count_bytes < _LARGEST:
        return NOT_A_FIGURE
    return human_bytes(count_bytes)


def number(value: float | None, decimals: int, unit: str = "") -> str:
    """Return a positive measure with fixed decimals."""
    if value is None:
        return NOT_MEASURED
    if not math.isfinite(value) or not 0 <= value < _LARGEST:
        return NOT_A_FIGURE
    return f"{value:,.{decimals}f} {unit}".rstrip().replace(",", _GROUP)


def count(value: int) -> str:
    """Return a count in groups of three digits."""
    return f"{value:,}".replace(",", _GROUP) if 0 <= value < _LARGEST else NOT_A_FIGURE


def quantity(value: float | None, unit: str) -> str:
    """Return a measure in its unit: "bytes", "seconds" or "samples/s"."""
    if unit == "bytes":
        return size(value)
    if unit == "seconds":
        if value is not None and 0 < value < 0.1:
            return number(value * 1000, 1, "ms")
        return number(value, 2, "s")
    return rate(value)


def rate(value: float | None) -> str:
    """Return samples a second, with a decimal where it says something."""
    return number(value, 0 if value is not None and value >= 1000 else 1, "samples/s")


def change(value: float | None, unit: str) -> str:
    """Return a difference with its sign and unit, such as "−150 MB"."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "±0"
    return ("−" if value < 0 else "+") + quantity(abs(value), unit)


def percent(ratio: float | None) -> str:
    """Return new over old as a change in percent, such as "−12 %" for 0.88."""
    if ratio is None or not math.isfinite(ratio) or ratio < 0:
        return MISSING
    if ratio >= 10:
        return f"×{ratio:.0f}" if ratio < 1e6 else "×10⁶ and more"
    value = (ratio - 1) * 100
    decimals = 1 if abs(value) < 9.95 else 0
    shown = f"{abs(value):.{decimals}f}"
    sign = "±" if float(shown) == 0 else "−" if value < 0 else "+"
    return f"{sign}{shown} %"
