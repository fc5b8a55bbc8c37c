"""Text files, compressed by gzip, xz, bzip2 or not at all."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TextIO

from fireassay.errors import InputError

MAGIC: Final[dict[bytes, Any]] = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ\x00": lzma.open, b"BZh": bz2.open}
SMALL: Final = 1 << 28  # bytes that any file may unpack to
GROWTH: Final = 300  # times its size that a larger one may
DAMAGES: Final = (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile)


class _Bounded(io.RawIOBase):
    """What a file unpacks to, as long as it is not far more than the file."""

    def __init__(self, unpacked: Any, path: Path) -> None:
        self.unpacked, self._path = unpacked, path
        self._size = path.stat().st_size
        self._read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer. Raises InputError when more came out than any data file holds."""
        content = self.unpacked.read1(len(buffer))
        self._read += len(content)
        if self._read > max(SMALL, GROWTH * self._size):
            raise InputError(f"{self._path}: unpacks to more than {GROWTH} times its size; it is damaged")
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self.unpacked.close()
        super().close()


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """The file as UTF-8 text. Raises InputError where it turns out to be damaged, no text, or to grow without end."""
    with path.open("rb") as raw:
        head = raw.read(6)
    opener = next((opener for magic, opener in MAGIC.items() if head.startswith(magic)), None)
    try:
        if opener is None:
            with path.open(encoding="utf-8") as text:
                yield text
        else:
            bounded = io.BufferedReader(_Bounded(opener(path, "rb"), path), 1 << 16)
            with io.TextIOWrapper(bounded, encoding="utf-8") as text:
                yield text
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text; is this another format?") from error
    except DAMAGES as error:
        raise InputError(f"{path}: the compressed file is damaged or cut short ({error}); get it again") from error


def position(text: Any) -> int:
    """How far a file opened by `open_text` has been read, in bytes of the file."""
    buffer = text.buffer
    bounded = getattr(buffer, "raw", None)
    if not isinstance(bounded, _Bounded):
        return int(buffer.tell())
    unpacked = bounded.unpacked
    return int((getattr(unpacked, "fileobj", None) or unpacked._fp).tell())


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
