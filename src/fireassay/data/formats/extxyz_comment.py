"""The second line of an extended XYZ frame: keys and values, as numbers, booleans, strings, arrays or JSON.

Lines that differ in their values alone, as those of one file mostly do, are read by a pattern made of the first.
"""

from __future__ import annotations

import json
import re
from collections import deque
from typing import Any, Final, NamedTuple

import numpy as np

from fireassay.data.frame import shape_of
from fireassay.errors import InputError

_KEY = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|([^\s="]+))\s*(=?)\s*')
_BARE = re.compile(r"[^\s]+")
_QUOTED = {'"': re.compile(r'"((?:[^"\\]|\\.)*)"'), "'": re.compile(r"'([^']*)'(?=\s|$)")}
_ROWS = re.compile(r"\[([^\[\]]*)\]")
BOOLEANS = {word: word[0] in "tT" for word in ("T", "True", "true", "TRUE", "F", "False", "false", "FALSE")}


def parse_comment(comment: str, where: str) -> dict[str, Any]:
    """The key=value pairs of a frame's second line, as numbers, booleans, strings, arrays or JSON values.

    A line without any "=" is free text, kept under "comment". Properties and pbc stay text.

    Raises InputError for a value that is not closed and a key that is given twice.
    """
    comment = comment.strip()
    for template in _TEMPLATES:
        values = template.values(comment)
        if values is not None:
            return values
    values = {}
    spans: list[tuple[str, int, int, bool]] = []
    if "=" not in comment:
        return {"comment": _typed(comment, quoted=True)} if comment else values
    at = 0
    while at < len(comment):
        match = _KEY.match(comment, at)
        if match is None:
            raise InputError(f"{where}: cannot read the comment line at {excerpt(comment[at:])}, needs key=value")
        at = match.end()
        key = match[1] if match[1] is not None else match[2]
        if match[3]:
            begin = at
            text, quoted, at = _value(comment, at, where)
            spans.append((key, begin, at, quoted))
            value = text if key.casefold() in ("properties", "pbc") else _typed(text, quoted)
        else:
            value = True
        if key in values and not (value is True and values[key] is True):
            raise InputError(f"{where}: the comment line gives {key!r} twice; remove one of them")
        values[key] = value
    _remember(comment, spans, list(values))
    return values


class _Template(NamedTuple):
    """A pattern of comment lines that differ in their values alone, as those of one file mostly do.

    What it matches reads as it would key by key: values are words without quotes or quoted ones without escapes, so
    that each ends where it would otherwise.
    """

    pattern: re.Pattern[str]
    constant: dict[str, Any]  # every key of the line in its order, with what stands in the pattern
    found: list[tuple[str, bool]]  # of each group of the pattern: the key, and whether it is quoted

    def values(self, comment: str) -> dict[str, Any] | None:
        """The values of a line; None when it is of another kind."""
        match = self.pattern.fullmatch(comment)
        if match is None:
            return None
        values = self.constant.copy()
        for (key, quoted), text in zip(self.found, match.groups(), strict=True):
            values[key] = _typed(text, quoted)
        return values


_TEMPLATES: Final[deque[_Template]] = deque(maxlen=4)


def _remember(comment: str, spans: list[tuple[str, int, int, bool]], keys: list[str]) -> None:
    """Makes a template of a line with the values of these keys, begins and ends; of lines without other signs only."""
    if len(spans) < len(keys):  # words without a value may differ in every line: a pattern costs more than it saves
        return
    pattern = ""
    constant: dict[str, Any] = dict.fromkeys(keys, True)
    found = []
    end = 0
    for key, begin, after, quoted in spans:
        text = comment[begin:after]
        if text[:1] in ("'", "[", "{") or "\\" in text or not text:
            return
        if key.casefold() in ("properties", "pbc"):
            constant[key] = text[1:-1] if quoted else text
            continue
        pattern += re.escape(comment[end:begin]) + (r'"([^"\\]*)"' if quoted else r"""([^\s"'\[{]\S*)""")
        found.append((key, quoted))
        end = after
    if len({key for key, _ in found}) == len(found) and found:
        _TEMPLATES.appendleft(_Template(re.compile(pattern + re.escape(comment[end:])), constant, found))


def _value(comment: str, at: int, where: str) -> tuple[str, bool, int]:
    opening = comment[at : at + 1]
    if opening and opening in _QUOTED:
        match = _QUOTED[opening].match(comment, at)
        if match is None and opening == '"':
            raise InputError(f"{where}: the quotation mark at {excerpt(comment[at:])} is not closed")
        if match is not None:
            return re.sub(r"\\(.)", r"\1", match[1]), True, match.end()
    if opening and opening in "[{":
        closing = {"[": "]", "{": "}"}[opening]
        depth = 0
        for end in range(at, len(comment)):
            depth += (comment[end] == opening) - (comment[end] == closing)
            if depth == 0:
                return comment[at : end + 1], False, end + 1
        raise InputError(f"{where}: the bracket at {excerpt(comment[at:])} is not closed")
    match = _BARE.match(comment, at)
    return (match[0], False, match.end()) if match else ("", False, at)


def _typed(text: str, quoted: bool) -> Any:
    if text.startswith("_JSON"):
        return _json(text[5:].strip(), text)
    if text[:1] in "[{" and text:
        parsed = _json(text, None)
        return _listed(text) if parsed is None else parsed
    return _words(text, text.replace(",", " ").split() if quoted or "," not in text else [text])


def _listed(text: str) -> Any:
    """A bracketed list that is no JSON: words, numbers or booleans, in one row or in rows of equal length."""
    rows = _ROWS.findall(text)
    if text.startswith("[[") and rows:
        arrays = [_words(row, row.replace(",", " ").split()) for row in rows]
        same = {(type(array), shape_of(array)) for array in arrays}
        return np.array(arrays) if len(same) == 1 and isinstance(arrays[0], np.ndarray) else text
    inner = text.strip("[]{}")
    return _words(inner, inner.replace(",", " ").split())


def _words(text: str, tokens: list[str]) -> Any:
    if not tokens:
        return text
    converted = [_scalar(token) for token in tokens]
    kinds = {type(value) for value in converted}
    if str in kinds or (bool in kinds and len(kinds) > 1):
        return text
    return converted[0] if len(converted) == 1 else _array(converted, text)


def _array(values: list[Any], otherwise: Any) -> Any:
    """A regular array of numbers or booleans, else what stands for it."""
    try:
        array = np.array(values)
    except (ValueError, OverflowError):
        return otherwise
    return array if array.dtype.kind in "fiub" else otherwise


def _json(text: str, otherwise: Any) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return otherwise
    return _array(value, value) if isinstance(value, list) else value


def _scalar(token: str) -> bool | int | float | str:
    if token in BOOLEANS:
        return BOOLEANS[token]
    for convert in (real,) if "." in token else (whole, real):
        try:
            return convert(token)
        except ValueError:
            pass
    return token


def excerpt(text: str) -> str:
    """The beginning of a text, for messages."""
    text = text.strip()
    return repr(text if len(text) <= 40 else text[:40] + "...")


def real(token: str) -> float:
    """A number, also with Fortran's exponent 1.0D-3; Python's own 1_000 is none."""
    if "_" in token:
        raise ValueError(token)
    try:
        return float(token)
    except ValueError:
        if token[:1] in "+-.0123456789":
            return float(token.replace("D", "E").replace("d", "e"))
        raise


def whole(token: str) -> int:
    """An integer. Raises ValueError for anything else; Python's own 1_000 is none."""
    if "_" in token or len(token) > 20:
        raise ValueError(token)
    return int(token)
