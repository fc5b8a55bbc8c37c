"""Text files, compressed by gzip, xz, bzip2 or not at all."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TextIO

from fireassay.errors import InputError

MAGIC: Final[dict[bytes, Any]] = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ\x00": lzma.open, b"BZh": bz2.open}
DAMAGES: Final = (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile)


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """The file as UTF-8 text. Raises InputError where it turns out to be damaged or no text."""
    with path.open("rb") as raw:
        head = raw.read(6)
    opener = next((opener for magic, opener in MAGIC.items() if head.startswith(magic)), open)
    try:
        with opener(path, "rt", encoding="utf-8") as text:
            yield text
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text; is this another format?") from error
    except DAMAGES as error:
        raise InputError(f"{path}: the compressed file is damaged or cut short ({error}); get it again") from error


def head_of(path: Path, size: int = 4096) -> bytes:
    """The first bytes of what a file unpacks to; empty when they are damaged."""
    with path.open("rb") as raw:
        head = raw.read(size)
    opener = next((opener for magic, opener in MAGIC.items() if head.startswith(magic)), None)
    if opener is None:
        return head
    try:
        with opener(path, "rb") as unpacked:
            return unpacked.read(size)
    except (OSError, *DAMAGES):
        return b""
