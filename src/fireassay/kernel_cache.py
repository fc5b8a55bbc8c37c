"""Where compiled kernels are kept, also where neither the package's folder nor the user's can be written.

numba keeps them beside the package, else in the user's cache folder, and fails where it can write neither: in a
container, say. `prepare` names a folder of the user's own among the temporary files then, before numba is imported.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

PACKAGE: Final = Path(__file__).parent
VARIABLE: Final = "NUMBA_CACHE_DIR"


def prepare(package: Path = PACKAGE) -> str | None:
    """Names a folder for compiled kernels where numba would find none; a line that says so, None when all is well.

    Without any folder kernels are compiled in every process, which takes minutes.
    """
    if os.environ.get(VARIABLE) or writable(package / "nn" / "__pycache__") or writable(_user_folder()):
        return None
    folder = Path(tempfile.gettempdir()) / f"fireassay-kernels-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
    if not _own(folder):
        return f"compiled kernels cannot be kept anywhere and are compiled anew; set {VARIABLE} to a folder for them"
    os.environ[VARIABLE] = str(folder)
    return f"compiled kernels are kept in {folder}; set {VARIABLE} to keep them elsewhere"


def writable(folder: Path) -> bool:
    """Whether a file can be made in the folder, which is made if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def cached(compile_: Callable[..., Any], **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator like `compile_(cache=True, **options)` that does without a cache where none can be kept."""

    def decorated(function: Callable[..., Any]) -> Any:
        try:
            return compile_(cache=True, **options)(function)
        except (RuntimeError, OSError):  # nowhere to cache, or no room: compile in every process
            return compile_(**options)(function)

    return decorated


def _user_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "numba"


def _own(folder: Path) -> bool:
    """Whether the folder is this user's alone: what lies in it is run."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return False
    mine = not hasattr(os, "getuid") or found.st_uid == os.getuid()
    closed = stat.S_ISDIR(found.st_mode) and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return mine and closed and writable(folder)
