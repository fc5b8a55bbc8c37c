"""Large XYZ files are scanned by compiled code, small ones as text: both say the same of every file."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import numpy as np
import pytest

from damage import damaged
from fireassay.data.formats import extxyz, extxyz_comment, xyz_scan
from fireassay.data.formats.extxyz import read_extxyz
from fireassay.errors import InputError
from format_files import FILES
from samples import ROWS, text

PROPERTIES = "Properties=species:S:1:pos:R:3"
CONTENTS = {
    "two frames": text(ROWS) + text(ROWS),
    "no newline at the end": (text(ROWS) + text(ROWS)).rstrip("\n"),
    "returns": text(ROWS).replace("\n", "\r\n") + text(ROWS),
    "a lone return": text(ROWS) + "2\rtitle\rH 0 0 0\rH 0 0 1\r" + text(ROWS),
    "a lone return at the end": text(ROWS).rstrip("\n") + "\r",
    "blank lines": "\n \n" + text(ROWS) + "\n\t\n" + text(ROWS) + "\n",
    "no properties": "1\nenergy=1\nH 0 0 0\n" + text(ROWS),
    "empty comment": "1\n\nH 0 0 0\n" + text(ROWS),
    "comment missing": text(ROWS) + "1",
    "cut in a row": text(ROWS) + text(ROWS)[:-9],
    "columns that differ": text(ROWS) + f"1\n{PROPERTIES}\nH 0 0 0\n" + text(ROWS),
    "integers": f"2\n{PROPERTIES}:tag:I:1\nH 0 0 0 1\nH 0 0 1 -2\n",
    "no integers": f"1\n{PROPERTIES}:tag:I:1\nH 0 0 0 1\n1\n{PROPERTIES}:tag:I:1\nH 0 0 1 2.5\n",
    "texts": f"1\n{PROPERTIES}:name:S:1\nH 0 0 0 one\n",
    "atomic numbers": "1\nProperties=Z:I:1:pos:R:3\n1 0 0 0\n",
    "elements otherwise": f"1\n{PROPERTIES}\n8 0 0 0\n1\n{PROPERTIES}\nhe 0 0 0\n1\n{PROPERTIES}\n0 0 0 0\n",
    "no element": text(ROWS) + f"1\n{PROPERTIES}\nXx 0 0 0\n",
    "Fortran": f"1\n{PROPERTIES}\nH 1.0D-3 0 1d0\n",
    "odd numbers": f"1\n{PROPERTIES}\nH nan -inf 1e400\n1\n{PROPERTIES}\nH 1_0 0 0\n",
    "rows that make up for each other": f"2\n{PROPERTIES}\nH 0 0 0 H\n0 0 1\n",
    "two few columns": f"2\n{PROPERTIES}\nH 0 0 0\nH 0 0\n",
    "no atoms": text(ROWS) + "0\nx\n" + text(ROWS),
    "negative": text(ROWS) + "-3\nx\n",
    "many": text(ROWS) + "9999999999999\nx\n",
    "other letters": text(ROWS) + f"1\nname=\u00e5 {PROPERTIES}\nH 0 0 0\n",
    "a column and a key": f"1\n{PROPERTIES}:x:R:1 x=1\nH 0 0 0 1\n",
    "templates": "".join(
        f'1\n{PROPERTIES} e={k}.5 s="{k} 2 3" word=w{k} flag pbc="F F F"\nH 0 0 0\n' for k in range(5)
    ),
    "escapes": "".join(f'1\n{PROPERTIES} e=1 name="a{k}\\"b"\nH 0 0 0\n' for k in range(3)),
}


def said(path: Path) -> list[tuple[object, ...]] | str:
    """All that a file holds, with types and every digit, or why it is refused."""
    try:
        content = read_extxyz(path)
    except InputError as error:
        return str(error)
    return [
        (
            frame.number,
            frame.line,
            frame.atomic_numbers.tolist(),
            frame.positions.tobytes(),
            frame.cell.tobytes(),
            frame.pbc.tolist(),
            [(key, type(value), repr(value), np.asarray(value).dtype) for key, value in frame.values.items()],
        )
        for frame in content.frames
    ]


def both(path: Path, monkeypatch: pytest.MonkeyPatch, size: int = 1) -> None:
    as_text = said(path)
    extxyz_comment._TEMPLATES.clear()
    monkeypatch.setattr(extxyz, "_LARGE", 1)
    monkeypatch.setattr(extxyz, "_SCANNED", size)
    scanned = said(path)
    monkeypatch.undo()
    if isinstance(scanned, str) and "not UTF-8" in as_text:  # text is decoded further ahead than it is read
        return
    assert scanned == as_text


@pytest.mark.parametrize("size", [1, 50, 1000])
@pytest.mark.parametrize("name", CONTENTS)
def test_what_is_scanned_is_what_is_read_as_text(
    name: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "frames.xyz"
    path.write_text(CONTENTS[name], encoding="utf-8", newline="")
    both(path, monkeypatch, size)


def test_damaged_files_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "frames.extxyz"
    FILES["frames.extxyz"](source)
    rng = random.Random(0)
    for k in range(300):
        path = tmp_path / f"{k}.xyz"
        path.write_bytes(damaged(source.read_bytes(), rng))
        both(path, monkeypatch, rng.choice([1, 64, 4096]))


def test_texts_are_not_scanned_in_vain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ordinary frames do go through the compiled code, and what cannot goes on as text."""
    path = tmp_path / "frames.xyz"
    path.write_text(text(ROWS) * 5 + "x", encoding="utf-8")
    seen = []
    monkeypatch.setattr(extxyz, "_LARGE", 1)
    monkeypatch.setattr(extxyz, "_SCANNED", 1)
    monkeypatch.setattr(extxyz, "_alone", lambda head, block: pytest.fail("read frame by frame"))
    inner = extxyz._scanned_frames
    monkeypatch.setattr(extxyz, "_scanned_frames", lambda *a: seen.append(len(a[0].places)) or inner(*a))
    with pytest.raises(InputError, match=r"frame 5 .line 21.: found 'x'"):
        read_extxyz(path)
    assert sum(seen) == 5


def test_numbers_are_those_of_python() -> None:
    """Every digit, as by Python's float, which rounds correctly; extremes are left to it."""
    rng = random.Random(0)
    doubles = [struct.unpack("d", rng.randbytes(8))[0] for _ in range(3000)]
    tokens = [repr(value) for value in doubles if 1e-280 < abs(value) < 1e280]
    tokens += [f"{rng.uniform(-1000, 1000):.8f}" for _ in range(3000)]
    tokens += [f"{rng.uniform(-10, 10):.16e}" for _ in range(3000)]
    tokens += [f"{rng.randrange(2**53, 2**54) | 1}e{rng.randrange(-12, 12)}" for _ in range(3000)]  # halfway cases
    tokens += [f"{rng.choice('+-')}.{rng.randrange(10**9)}E{rng.randrange(-30, 30)}" for _ in range(3000)]
    tokens += ["0", "-0.0", "007.", "+5", "1E+05", "9007199254740993", "0.1", "123456789012345678"]
    buffer = np.frombuffer("".join(f"1\n\nH {token}\n" for token in tokens).encode(), dtype=np.uint8)
    places = xyz_scan.scan(buffer, last=True).places
    numbers, table, sound = xyz_scan.rows_of(buffer, places, 2)
    assert sound.all()
    assert set(numbers.tolist()) == {1}
    assert table[:, 0].tobytes() == np.array([float(token) for token in tokens]).tobytes()


@pytest.mark.parametrize(
    "token",
    ["nan", "1e400", "1e-310", "5e-324", "1.2.3", "1e", "--1", ".", "+", "1d0", "1_0", "1x", "12345678901234567890"],
)
def test_what_is_no_plain_number_is_left_to_others(token: str) -> None:
    buffer = np.frombuffer(f"1\n\nH {token}\n1\n\nH 2\n".encode(), dtype=np.uint8)
    places = xyz_scan.scan(buffer, last=True).places
    _, table, sound = xyz_scan.rows_of(buffer, places, 2)
    assert sound.tolist() == [False, True]
    assert table[1, 0] == 2.0
