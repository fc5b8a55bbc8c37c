"""Embedded data sets by name."""

from __future__ import annotations

from fireassay.data.embedded import EMBEDDED, find, folder, provenance, splits
from fireassay.data.readers import read
from fireassay.data.structure import Structure
from fireassay.errors import InputError

__all__ = ["EMBEDDED", "find", "folder", "load", "provenance", "splits"]


def load(name: str, split: str) -> list[Structure]:
    """The structures of one split of an embedded data set, such as load("3bpa-xtb", "train_300K").

    Raises InputError for an unknown data set or split.
    """
    if find(f"{name}/{split}") is None:
        folder(name)
        raise InputError(f"{name}/{split}: no such embedded data set")
    return read(f"{name}/{split}")
