"""Colours, markers and number formats: one potential looks the same in every figure, on screen and on paper.

The colours are those of Okabe and Ito (2008), which stay apart in the common forms of colour blindness, darkened or
lightened for the two themes, and four more of different lightness; each has its own marker as well.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
from ase.data import chemical_symbols


class Look(NamedTuple):
    """One potential's colour on a light and on a dark page, and its marker for plotly and for matplotlib."""

    light: str
    dark: str
    marker: str
    mpl_marker: str


LOOKS: Final = (
    Look("#0072B2", "#55AEE8", "circle", "o"),
    Look("#D55E00", "#F58A45", "square", "s"),
    Look("#009E73", "#35C79E", "diamond", "D"),
    Look("#B1528F", "#E08FC2", "triangle-up", "^"),
    Look("#B88400", "#E9B43A", "triangle-down", "v"),
    Look("#4A4A4A", "#C4C4C4", "pentagon", "p"),
    Look("#3AA0DC", "#A5DAFA", "star", "*"),
    Look("#7B3F00", "#C98F5A", "hexagon", "h"),
    Look("#882255", "#CE7AA5", "cross", "P"),
    Look("#707000", "#C2C24A", "x", "X"),
)


def look(run: int) -> Look:
    """How the potential with this index looks; the eleventh looks like the first, in another figure."""
    return LOOKS[run % len(LOOKS)]


INK: Final = {"light": "#1b1e24", "dark": "#e7e9ee"}
MUTED: Final = {"light": "#626975", "dark": "#9aa2b1"}
GRID: Final = {"light": "#e4e5e8", "dark": "#2c313a"}

# Viridis (van der Walt and Smith), nine stops: perceptually uniform and safe in colour blindness.
VIRIDIS: Final = (
    "#440154",
    "#472d7b",
    "#3b528b",
    "#2c728e",
    "#21918c",
    "#28ae80",
    "#5ec962",
    "#addc30",
    "#fde725",
)
_RAISED: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def symbol(number: int) -> str:
    """The element's symbol; X for an unknown number."""
    return chemical_symbols[number] if 0 < number < len(chemical_symbols) else "X"


def digits(value: float | None, significant: int = 3) -> str:
    """A number with so many significant digits, without an exponent from 0.001 to 999 999; a dash for None and NaN."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size < -3 or size >= 6:
        mantissa, exponent = f"{value:.{significant - 1}e}".split("e")
        return f"{mantissa} × 10{str(int(exponent)).translate(_RAISED)}".replace("-", "−")
    return f"{value:.{max(0, significant - 1 - size)}f}".replace("-", "−")


def brief(value: float | None, significant: int = 4) -> str:
    """A number for a sentence: as `digits`, without trailing zeros."""
    words = digits(value, significant)
    return words.rstrip("0").rstrip(".") if "." in words and "×" not in words else words


def grouped(count: int) -> str:
    """A whole number with narrow spaces between the thousands."""
    return f"{count:,}".replace(",", "\u202f")


def percent(share: float | None) -> str:
    """A share as a percentage without needless decimals."""
    if share is None or not math.isfinite(share):
        return "–"
    return f"{100 * share:.0f} %" if share in (0, 1) or abs(share) >= 0.1 else f"{digits(100 * share, 2)} %"


def p_value(p: float) -> str:
    """A p value in the customary way."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def rounded(values: object, significant: int = 5) -> list[float | None]:
    """Numbers for JSON with so many significant digits; what is not finite becomes None."""
    flat = np.asarray(values, dtype=float)
    return [float(f"{v:.{significant}g}") if np.isfinite(v) else None for v in flat.ravel().tolist()]
