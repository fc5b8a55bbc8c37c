"""Everything else that ASE reads: outputs of electronic-structure codes, trajectories and structure files.

Only formats whose readers parse text or arrays are on the list; those that open pickles, run programs or ask a server
are not.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from fireassay.data.formats.compressed import MAGIC, head_of, open_text
from fireassay.data.formats.elements import numbers_of_types
from fireassay.data.frame import Content, Frame
from fireassay.errors import InputError

LABELLED: Final = {
    "abinit-out": "ABINIT output",
    "aims-output": "FHI-aims output",
    "castep-castep": "CASTEP output",
    "castep-geom": "CASTEP geometry optimisation",
    "castep-md": "CASTEP dynamics",
    "espresso-out": "Quantum ESPRESSO output",
    "gamess-us-out": "GAMESS-US output",
    "gaussian-out": "Gaussian output",
    "gpaw-out": "GPAW output",
    "lammps-dump-text": "LAMMPS dump",
    "nwchem-out": "NWChem output",
    "onetep-out": "ONETEP output",
    "orca-output": "ORCA output",
    "qbox": "Qbox output",
    "runnerdata": "RuNNer data",
    "traj": "ASE trajectory",
    "turbomole-gradient": "Turbomole gradient",
    "vasp-out": "VASP OUTCAR",
    "vasp-xml": "VASP vasprun.xml",
}
STRUCTURES: Final = {
    "aims": "FHI-aims geometry",
    "castep-cell": "CASTEP cell",
    "cif": "CIF",
    "cp2k-dcd": "CP2K DCD trajectory",
    "cp2k-restart": "CP2K restart",
    "crystal": "CRYSTAL geometry",
    "cube": "cube file",
    "dlp-history": "DL_POLY history",
    "dlp4": "DL_POLY configuration",
    "dmol-arc": "DMol3 arc",
    "dmol-car": "DMol3 car",
    "eon": "EON con",
    "espresso-in": "Quantum ESPRESSO input",
    "gen": "DFTB+ geometry",
    "gromacs": "Gromacs coordinates",
    "gromos": "Gromos coordinates",
    "mol": "MDL molfile",
    "nwchem-in": "NWChem input",
    "proteindatabank": "PDB file",
    "res": "SHELX file",
    "rmc6f": "RMCProfile",
    "sdf": "SDF",
    "siesta-xv": "SIESTA XV",
    "struct_out": "SIESTA STRUCT_OUT",
    "turbomole": "Turbomole coordinates",
    "v-sim": "V_Sim",
    "vasp": "VASP POSCAR",
    "vasp-xdatcar": "VASP XDATCAR",
    "xsd": "Materials Studio",
    "xsf": "XCrySDen",
}
_TEXT_HEADS: Final = (
    ("vasp-xml", re.compile(rb"<modeling>|<generator>.{0,200}vasp", re.DOTALL)),
    ("vasp-out", re.compile(rb"^\s*vasp\.\d", re.MULTILINE)),
)
_CONTAIN: Final = {
    "castep-geom": b"BEGIN header",
    "castep-md": b"BEGIN header",
    "espresso-out": b"PWSCF",
    "gaussian-out": b"Gaussian",
    "traj": b"ASE-Trajectory",
}
_GEOMETRY: Final = ("numbers", "positions", "momenta", "masses", "tags")


def ase_format(path: Path) -> str | None:
    """The name that ASE gives the format, when it is on one of the lists; None otherwise."""
    from ase.io.formats import filetype

    head = head_of(path)
    for name, pattern in _TEXT_HEADS:
        if pattern.search(head):
            return name
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            name = filetype(str(path), read=not head.startswith(tuple(MAGIC)))
    except Exception:  # of a damaged file; whoever reads it says what is wrong
        return None
    if name in _CONTAIN and _CONTAIN[name] not in head:  # the suffix alone says little
        return None
    return name if name in LABELLED or name in STRUCTURES else None


def read_ase(path: Path, name: str, elements: Sequence[str] | None = None) -> Content:
    """All frames of a file that ASE reads as the format `name`, with the results of its calculator.

    Forces are those of the calculation: constraints are not applied. The energy is ASE's, which is extrapolated to
    zero smearing where the code gives such a value; the free energy, which the forces belong to, is `free_energy`.
    `elements` are those of the types 1, 2, ... of a LAMMPS dump that does not name elements.

    Raises InputError when ASE cannot read the file.
    """
    if name == "lammps-dump-text":
        _check_types(path, elements)
    frames = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for atoms in _images(path, name, elements):
            frames.append(_frame(atoms, str(path), len(frames), name))
    if not frames:
        raise InputError(f"{path}: ASE finds no frame in it as {name}; it may be cut short")
    described = {**LABELLED, **STRUCTURES}[name]
    return Content(str(path), described, frames, notes=_notes(frames, name))


def _images(path: Path, name: str, elements: Sequence[str] | None) -> Iterator[Any]:
    from ase.io import iread

    options: dict[str, Any] = {"specorder": list(elements)} if elements and name == "lammps-dump-text" else {}
    try:
        yield from iread(str(path), index=":", format=name, **options)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # ASE's parsers raise whatever a damaged file leads them to
        text = " ".join(f"{type(error).__name__} {error}".split())[:300]
        other = ", and vasprun.xml of the same run may serve instead" if name == "vasp-out" else ""
        raise InputError(
            f"{path}: ASE cannot read it as {name} ({text}); it may be damaged or cut short{other}"
        ) from error


def _frame(atoms: Any, file: str, number: int, name: str) -> Frame:
    values: dict[str, Any] = {}
    for key, value in (atoms.info or {}).items():
        if isinstance(key, str) and isinstance(value, (bool, int, float, str, np.ndarray, np.generic)):
            values[key] = value
    values |= {key: value for key, value in atoms.arrays.items() if key not in _GEOMETRY}
    results = dict(getattr(atoms.calc, "results", None) or {})
    if name == "lammps-dump-text":
        results.pop("energy", None)  # a dump has none: ASE fills in zero
    for key, value in results.items():
        if isinstance(value, (bool, int, float, np.generic)) or (
            isinstance(value, np.ndarray) and value.dtype.kind in "fiub"
        ):
            values[key] = value
    return Frame(
        file,
        number,
        np.array(atoms.numbers, dtype=np.int64),
        np.array(atoms.positions, dtype=np.float64),
        np.array(atoms.cell[:], dtype=np.float64),
        np.array(atoms.pbc, dtype=bool),
        values,
    )


def _notes(frames: Sequence[Frame], name: str) -> tuple[str, ...]:
    notes = [f"read by ASE as {name}"]
    both = [f for f in frames if {"energy", "free_energy"} <= f.values.keys()]
    if name == "traj" or not any("energy" in f.values for f in frames):
        return tuple(notes)
    gaps = [abs(float(f.values["free_energy"]) - float(f.values["energy"])) / max(len(f), 1) for f in both]
    if gaps and max(gaps) > 1e-7:
        notes.append(
            f"energy is extrapolated to zero smearing, up to {1000 * max(gaps):.3g} meV/atom from free_energy, which "
            "the forces are derivatives of"
        )
    elif gaps:
        notes.append("energy and free_energy are equal: there is no smearing")
    return tuple(notes)


def _check_types(path: Path, elements: Sequence[str] | None) -> None:
    """Raises InputError for a LAMMPS dump whose types have no elements."""
    with open_text(path) as text:
        columns: list[str] = []
        types: set[int] = set()
        for line in text:
            if line.startswith("ITEM:"):
                columns = line.split()[2:] if line.startswith("ITEM: ATOMS") else []
                if columns and ("element" in columns or "mass" in columns or "type" not in columns):
                    return
            elif columns:
                words = line.split()
                if len(words) == len(columns) and words[columns.index("type")].isdigit():
                    types.add(int(words[columns.index("type")]))
    if types:
        numbers_of_types(np.array(sorted(types)), elements, 1, str(path))
