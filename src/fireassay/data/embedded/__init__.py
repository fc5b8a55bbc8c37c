"""The data sets that ship with the package: made by `fireassay.simulation.generate`."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from fireassay.errors import InputError, nearest

EMBEDDED: Final = {
    "3bpa-xtb": "3-(benzyloxy)pyridin-2-amine, 27 atoms, GFN2-xTB, MD at 300, 600 and 1200 K: energies and forces",
    "cuau-emt": "Cu-Au solid solution, 32 atoms, EMT, MD at 300 and 900 K: energies, forces and stress",
}
_SUFFIX = ".xyz.xz"


def folder(name: str) -> Path:
    """Where the data set's files are.

    Raises InputError for a name that is not in `EMBEDDED`.
    """
    if name not in EMBEDDED:
        raise InputError(f"{name!r} is no embedded data set{nearest(name, EMBEDDED)}; there are {list(EMBEDDED)}")
    return Path(str(files(__name__))) / name


def splits(name: str) -> list[str]:
    """Names of the data set's splits, such as "train_300K"."""
    return sorted(path.name.removesuffix(_SUFFIX) for path in folder(name).glob(f"*{_SUFFIX}"))


def provenance(name: str) -> dict[str, Any]:
    """How the data set was made: command, oracle, versions, units, walks."""
    path = folder(name) / "provenance.json"
    if not path.exists():
        raise InputError(f"{name}: has no provenance.json; generate it with fireassay data make {name}")
    return json.loads(path.read_text(encoding="utf-8"))


def find(path: str) -> Path | None:
    """The file that a name such as "3bpa-xtb/train_300K" stands for; None when it names no embedded data set.

    Raises InputError when the data set is known and the split is not.
    """
    name, _, split = path.partition("/")
    if name not in EMBEDDED:
        return None
    known = splits(name)
    if split not in known:
        raise InputError(f"{path}: {name} has no split {split!r}{nearest(split, known)}; it has {known}")
    return folder(name) / f"{split}{_SUFFIX}"
