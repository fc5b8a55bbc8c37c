"""tar and zip archives: their files are unpacked into a temporary folder and read one by one."""

from __future__ import annotations

import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from fireassay.errors import InputError

PICKLES: Final = (".pkl", ".pickle", ".p", ".pt", ".pth", ".joblib", ".ckpt")
_LARGEST: Final = 1 << 38  # bytes, unpacked
_RATIO: Final = 2000  # unpacked bytes to packed ones
_ALWAYS: Final = 1 << 28  # bytes that may come out of anything


def is_archive(path: Path) -> bool:
    """Whether the file is a tar, compressed or not, or a zip that is no npz."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            return path.suffix not in (".npz", *PICKLES) and not any(name.endswith((".npy", ".pkl")) for name in names)
        return tarfile.is_tarfile(path)
    except Exception:  # a damaged one is told of by whoever reads it
        return False


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """A temporary folder with the archive's files; links, devices and paths that lead outside are refused.

    Raises InputError when the archive is damaged, leads outside, or unpacks to far more than its size.
    """
    with tempfile.TemporaryDirectory(prefix="fireassay-") as folder:
        try:
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    _check_growth(path, sum(entry.file_size for entry in archive.infolist()))
                    archive.extractall(folder)
            else:
                with tarfile.open(path) as archive:
                    total = 0
                    for member in archive:
                        total += member.size
                        _check_growth(path, total)
                        archive.extract(member, folder, filter="data")
        except InputError:
            raise
        except Exception as error:  # what a damaged archive leads the decoders to
            text = " ".join(f"{type(error).__name__} {error}".split())
            raise InputError(
                f"{path}: the archive cannot be unpacked ({text}); it may be damaged, get it again"
            ) from error
        yield Path(folder)


def _check_growth(path: Path, total: int) -> None:
    if total > _LARGEST or total > max(_ALWAYS, _RATIO * path.stat().st_size):
        raise InputError(
            f"{path}: the archive unpacks to {total / 1e9:.3g} GB, far more than its size; unpack it yourself"
        )
