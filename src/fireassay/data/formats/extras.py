"""Packages that some formats need and the installation does not bring by itself."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from fireassay.errors import InputError


def required(package: str, path: Path) -> Any:
    """The package, imported. Raises InputError when it is not installed, with the command that installs it."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise InputError(
            f"{path}: needs the package {package}; install it with: pip install {package} (or fireassay[formats])"
        ) from None
