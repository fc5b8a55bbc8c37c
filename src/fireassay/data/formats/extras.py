"""Packages that some formats need and the installation does not bring by itself."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from fireassay.errors import InputError

_TRIAL: Final = Path(__file__).with_name("trial.py")
_SECONDS: Final = 8.0  # that a trial may always take
_RATE: Final = 2e7  # bytes a second that it reads at least


def required(package: str, path: Path) -> Any:
    """The package, imported. Raises InputError when it is not installed, with the command that installs it."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise InputError(
            f"{path}: needs the package {package}; install it with: pip install {package} (or fireassay[formats])"
        ) from None


def try_reading(kind: str, path: Path) -> None:
    """Reads the file in a process of its own first (`trial`). Raises InputError when that process does not return.

    `kind` is "lmdb" or "hdf5". Errors that the process survives are left to the reader, which knows more of the format.
    """
    size = sum(part.stat().st_size for part in path.glob("*")) if path.is_dir() else path.stat().st_size
    limit = _SECONDS + size / _RATE
    try:
        ended = subprocess.run(
            [sys.executable, "-I", str(_TRIAL), kind, str(path)], capture_output=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"{path}: cannot be read as {kind.upper()} within {limit:.0f} s; it may be damaged") from None
    if ended.returncode < 0:
        raise InputError(
            f"{path}: reading it as {kind.upper()} kills the process (signal {-ended.returncode}); it is damaged or "
            "cut short, get it again"
        )
