"""Compiled scanning of XYZ files: where frames lie in a buffer of bytes, and the numbers of their rows.

Decimal numbers are rounded correctly, as Python's float rounds them, by the method of D. Lemire, Software: Practice and
Experience 51, 1700 (2021). What is not plainly a number, or is one of the rare cases that the method leaves open, makes
its frame one that is not sound, which is then read in another way.
"""

from __future__ import annotations

from functools import cache
from typing import Final, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from fireassay.data.frame import ATOMIC_NUMBERS
from fireassay.kernel_cache import cached

COUNT, LINE, COMMENT, COMMENT_END, ROWS, ROWS_END = range(6)  # columns of a table of places
# Integers up to this, and powers of ten up to 10^22, are doubles: one operation on them rounds once.
_EXACT = 1 << 53
_LEAST, _MOST = -300, 300  # exponents of ten that are handled: results are normal numbers
_NEWLINE, _RETURN, _SPACE, _TAB = 10, 13, 32, 9
_TENS: Final = np.array([float(10**q) for q in range(23)])
_FRAMES: Final = 1 << 16  # frames that one scan finds at most


class Scan(NamedTuple):
    """Frames that lie whole in a buffer: `places` (K, 6), and the bytes and lines that they take.

    `odd` says that what follows is no frame as they usually are: it is to be read as text.
    """

    places: NDArray[np.int64]
    end: int
    lines: int
    odd: bool


def scan(buffer: NDArray[np.uint8], last: bool) -> Scan:
    """The frames of a buffer that begins with one; with `last` nothing follows it in the file.

    Buffers are to be such as `numpy.frombuffer` makes of bytes: kernels are compiled for each kind of array.
    """
    places = np.empty((min(_FRAMES, len(buffer)), 6), dtype=np.int64)
    found, end, lines, odd = _find(buffer, last, places)
    return Scan(places[:found], int(end), int(lines), bool(odd))


def rows_of(
    buffer: NDArray[np.uint8], places: NDArray[np.int64], width: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]:
    """Atomic numbers (N,) and the other columns (N, width - 1) of frames one after another, and which are sound."""
    n = int(places[:, COUNT].sum())
    numbers, table = np.zeros(n, dtype=np.int64), np.zeros((n, width - 1))
    sound = np.ones(len(places), dtype=np.bool_)
    high, low = _powers()
    _fill(buffer, places, _elements(), _TENS, high, low, numbers, table, sound)
    return numbers, table, sound


@cache
def _powers() -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The first 128 bits of 10^q for q from `_LEAST` to `_MOST`, high and low half; those of negative q rounded up."""
    high, low = [], []
    for q in range(_LEAST, _MOST + 1):
        power = 10 ** abs(q)
        if q >= 0:
            shift = power.bit_length() - 128
            bits = power >> shift if shift >= 0 else power << -shift
        else:
            bits = (1 << (power.bit_length() + 127)) // power + 1
        high.append(bits >> 64)
        low.append(bits & ((1 << 64) - 1))
    return np.array(high, dtype=np.uint64), np.array(low, dtype=np.uint64)


@cache
def _elements() -> NDArray[np.int64]:
    """Atomic numbers by the first byte and, 0 for none, the second one: (256, 256)."""
    table = np.zeros((256, 256), dtype=np.int64)
    for symbol, number in ATOMIC_NUMBERS.items():
        table[ord(symbol[0]), ord(symbol[1]) if len(symbol) > 1 else 0] = number
    return table


@cached(numba.njit, nogil=True)
def _line_end(buffer, at):  # type: ignore[no-untyped-def]
    """The place of the next newline, the buffer's length where there is none, and if the line has a lone return."""
    size = len(buffer)
    lone = False
    while at < size and buffer[at] != _NEWLINE:
        if buffer[at] == _RETURN and at + 1 < size and buffer[at + 1] != _NEWLINE:
            lone = True
        at += 1
    return at, lone


@cached(numba.njit, nogil=True)
def _counted(buffer, at, end):  # type: ignore[no-untyped-def]
    """The number that a line holds alone: 0 for a blank line, -1 for anything else."""
    count, digits, closed = 0, 0, False
    for k in range(at, end):
        byte = buffer[k]
        if byte in (_SPACE, _TAB, _RETURN):
            closed = digits > 0
        elif 48 <= byte <= 57 and not closed and digits < 9:
            count, digits = 10 * count + (byte - 48), digits + 1
        else:
            return -1
    return count if count > 0 or digits == 0 else -1


@cached(numba.njit, nogil=True)
def _find(buffer, last, places):  # type: ignore[no-untyped-def]
    """Fills `places`; returned are how many, where the first that is not among them begins, its line, and if it is odd.

    A frame that the buffer does not hold whole is odd when it is the last of the file.
    """
    size = len(buffer)
    at, line, found = 0, 0, 0
    while at < size and found < len(places):
        end, lone = _line_end(buffer, at)
        if end >= size and not last:
            return found, at, line, False
        count = _counted(buffer, at, end)
        if lone or count < 0:
            return found, at, line, True
        if count == 0:
            at, line = min(end + 1, size), line + 1
            continue
        comment = min(end + 1, size)
        comment_end, lone = _line_end(buffer, comment)
        place, left = min(comment_end + 1, size), count
        while left > 0 and place < size and not lone:
            place, lone = _line_end(buffer, place)
            left -= place < size or last
            place = min(place + 1, size)
        if lone or left > 0:
            return found, at, line, lone or last
        places[found, 0], places[found, 1] = count, line
        places[found, 2], places[found, 3] = comment, comment_end
        places[found, 4], places[found, 5] = comment_end + 1, place
        found += 1
        at, line = place, line + 2 + count
    return found, at, line, False


@cached(numba.njit, nogil=True)
def _product(a, b):  # type: ignore[no-untyped-def]
    """The 128 bits of the product of two words, high and low half."""
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    a0, a1, b0, b1 = a & mask, a >> half, b & mask, b >> half
    low, cross = a0 * b0, a1 * b0
    middle = (low >> half) + (cross & mask) + a0 * b1
    return a1 * b1 + (cross >> half) + (middle >> half), (middle << half) | (low & mask)


@cached(numba.njit, nogil=True)
def _rounded(digits, q, high, low):  # type: ignore[no-untyped-def]
    """The bits of the double nearest to digits * 10^q, and whether they are certain."""
    shift = 0
    w = digits
    for step in (32, 16, 8, 4, 2, 1):
        if w >> np.uint64(64 - step) == np.uint64(0):
            w = w << np.uint64(step)
            shift += step
    upper, lower = _product(w, high[q - _LEAST])
    if upper & np.uint64(0x1FF) == np.uint64(0x1FF):
        more, _ = _product(w, low[q - _LEAST])
        lower += more
        if more > lower:
            upper += np.uint64(1)
        if lower == np.uint64(0xFFFFFFFFFFFFFFFF) and (q < -27 or q > 55):
            return np.uint64(0), False
    top = np.int64(upper >> np.uint64(63))
    mantissa = upper >> np.uint64(top + 9)
    exponent = ((217706 * q) >> 16) + 63 + top - shift + 1023
    if exponent <= 0 or exponent >= 2046:
        return np.uint64(0), False
    tie = lower <= np.uint64(1) and -4 <= q <= 23 and mantissa & np.uint64(3) == np.uint64(1)
    if tie and mantissa << np.uint64(top + 9) == upper:
        mantissa &= ~np.uint64(1)
    mantissa += mantissa & np.uint64(1)
    mantissa >>= np.uint64(1)
    if mantissa >= np.uint64(1) << np.uint64(53):
        mantissa = np.uint64(1) << np.uint64(52)
        exponent += 1
    mantissa &= ~(np.uint64(1) << np.uint64(52))
    return mantissa | (np.uint64(exponent) << np.uint64(52)), True


@cached(numba.njit, nogil=True, forceinline=True)
def _number(buffer, at, end, tens, high, low, bits, value):  # type: ignore[no-untyped-def]
    """The number that begins at `at`, into `value`, a view of `bits`; returned are its end, and if it is certain."""
    negative = buffer[at] == 45
    if negative or buffer[at] == 43:
        at += 1
    first, digits, point = at, 0, -1
    while at < end:
        digit = buffer[at] - 48
        if 0 <= digit <= 9:
            digits = 10 * digits + digit
        elif digit == -2 and point < 0:
            point = at
        else:
            break
        at += 1
    seen = at - first - (point >= 0)
    q = point + 1 - at if point >= 0 else 0
    if seen == 0:
        return at, False
    if seen > 18:  # leading zeros do not count: below 10^18 there was no overflow
        while first < at and (buffer[first] == 48 or buffer[first] == 46):
            seen -= buffer[first] == 48
            first += 1
        if seen > 18:
            return at, False
    if at < end and (buffer[at] == 101 or buffer[at] == 69):
        at += 1
        below = at < end and buffer[at] == 45
        if at < end and (buffer[at] == 45 or buffer[at] == 43):
            at += 1
        exponent, seen = 0, 0
        while at < end and 48 <= buffer[at] <= 57 and seen < 6:
            exponent = 10 * exponent + (buffer[at] - 48)
            seen += 1
            at += 1
        if seen == 0:
            return at, False
        q += -exponent if below else exponent
    if at < end and buffer[at] > _SPACE:
        return at, False
    certain = True
    if digits <= _EXACT and -22 <= q <= 22:
        value[0] = digits / tens[-q] if q < 0 else digits * tens[q]
    elif _LEAST <= q <= _MOST:
        bits[0], certain = _rounded(np.uint64(digits), q, high, low)
    else:
        certain = False
    if negative:
        value[0] = -value[0]
    return at, certain


@cached(numba.njit, nogil=True, forceinline=True)
def _row(buffer, at, end, elements, tens, high, low, bits, value, numbers, table, atom):  # type: ignore[no-untyped-def]
    """Reads one row; returned are the place after it, and whether all in it was plain."""
    while at < end and (buffer[at] == _SPACE or buffer[at] == _TAB):
        at += 1
    first = at
    while at < end and buffer[at] > _SPACE:
        at += 1
    if at - first < 1 or at - first > 2:
        return at, False
    second = buffer[first + 1] if at - first == 2 else np.uint8(0)
    numbers[atom] = elements[buffer[first], second]
    if numbers[atom] == 0:
        return at, False
    for column in range(table.shape[1]):
        while at < end and (buffer[at] == _SPACE or buffer[at] == _TAB):
            at += 1
        if at >= end or buffer[at] <= _SPACE:
            return at, False
        at, certain = _number(buffer, at, end, tens, high, low, bits, value)
        if not certain:
            return at, False
        table[atom, column] = value[0]
    while at < end and (buffer[at] == _SPACE or buffer[at] == _TAB or buffer[at] == _RETURN):
        at += 1
    return at + 1, at >= end or buffer[at] == _NEWLINE


@cached(numba.njit, nogil=True)
def _fill(buffer, places, elements, tens, high, low, numbers, table, sound):  # type: ignore[no-untyped-def]
    bits = np.zeros(1, dtype=np.uint64)
    value = bits.view(np.float64)
    first = 0
    for k in range(len(places)):
        at, end = places[k, 4], places[k, 5]
        for atom in range(first, first + places[k, 0]):
            at, plain = _row(buffer, at, end, elements, tens, high, low, bits, value, numbers, table, atom)
            if not plain:
                sound[k] = False
                break
        first += places[k, 0]
