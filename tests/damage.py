"""Damages files at random, as disks, transfers and editors do."""

from __future__ import annotations

import random
import re
import shutil
from pathlib import Path

STRANGE = (b"999999999999", b"-1", b"0", b"nan", b"1e400", b"", b"1_1", b"{", b'"', b"\x00", b"\x80\x04")


def damaged(content: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.choice([1, 1, 2, 4, 8])):
        kind = rng.choice(["cut", "drop", "repeat", "swap", "number", "write"])
        at, size = rng.randrange(max(len(content), 1)), rng.choice([1, 2, 4, 9, 50, 2000])
        piece = content[at : at + size]
        if kind == "cut":
            content = content[:at]
        elif kind == "drop":
            content = content[:at] + content[at + size :]
        elif kind == "repeat":
            content = content[:at] + piece + content[at:]
        elif kind == "swap":
            content = content[:at] + piece[::-1] + content[at + size :]
        elif kind == "write":
            content = content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :]
        else:
            start = max(0, at - 200)
            numbers = list(re.finditer(rb"\d+", content[start : at + 200]))
            if numbers:
                found = rng.choice(numbers)
                first, last = start + found.start(), start + found.end()
                content = content[:first] + rng.choice(STRANGE) + content[last:]
    return content


def damage(source: Path, target: Path, rng: random.Random) -> None:
    if not source.is_dir():
        target.write_bytes(damaged(source.read_bytes(), rng))
        return
    shutil.copytree(source, target)
    chosen = rng.choice(sorted(path for path in target.rglob("*") if path.is_file()))
    chosen.write_bytes(damaged(chosen.read_bytes(), rng))
