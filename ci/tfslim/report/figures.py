"""Figures as a reader sees them: with a unit, a sign where they are a change, and never a "nan"."""

from __future__ import annotations

import math

from tfslim.ui import human_bytes

__all__ = ["MISSING", "NOT_MEASURED", "change", "count", "number", "percent", "quantity", "size"]

MISSING = "–"
NOT_MEASURED = "not measured"
NOT_A_FIGURE = "not a figure"  # a record says NaN, infinity, or less than nothing
_LARGEST = 1e18


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
    return f"{value:,.{decimals}f} {unit}".rstrip().replace(",", " ")


def count(value: int) -> str:
    """Return a count with thin groups of three digits."""
    return f"{value:,}".replace(",", " ") if 0 <= value < _LARGEST else NOT_A_FIGURE


def quantity(value: float | None, unit: str) -> str:
    """Return a measure in its unit: "bytes", "seconds" or "samples/s"."""
    if unit == "bytes":
        return size(value)
    if unit == "seconds":
        return number(value, 2 if value is None or value >= 0.1 else 4, "s")
    return number(value, 1, "samples/s")


def change(value: float | None, unit: str) -> str:
    """Return a difference with its sign and unit, such as "−150 MB"."""
    if value is None or not math.isfinite(value):
        return MISSING
    sign = "−" if value < 0 else "+" if value > 0 else "±"
    return sign + quantity(abs(value), unit)


def percent(ratio: float | None) -> str:
    """Return new over old as a change in percent, such as "−12 %" for 0.88."""
    if ratio is None or not math.isfinite(ratio) or ratio < 0:
        return MISSING
    if ratio >= 10:
        return f"×{ratio:.0f}" if ratio < 1e6 else "×10⁶ and more"
    value = (ratio - 1) * 100
    if value == 0:
        return "±0 %"
    decimals = 1 if abs(value) < 10 else 0
    shown = f"{abs(value):.{decimals}f}"
    return ("−" if value < 0 else "+") + shown + " %"
