"""One frame as its file has it: geometry in the file's units, and every other value under the file's own key."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fireassay.errors import InputError

_ELEMENTS = (
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr "
    "Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir "
    "Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl "
    "Mc Lv Ts Og"
)
ATOMIC_NUMBERS = {symbol: number for number, symbol in enumerate(_ELEMENTS.split(), start=1)}
SYMBOLS = {number: symbol for symbol, number in ATOMIC_NUMBERS.items()}


@dataclass(frozen=True, eq=False)
class Frame:
    """Geometry in the file's length unit, and `values`: key -> number, string or array, uninterpreted.

    `number` counts from 0 in the file, `line` from 1 where the format has lines.
    """

    file: str
    number: int
    atomic_numbers: NDArray[np.int64]  # (N,)
    positions: NDArray[np.float64]  # (N, 3)
    cell: NDArray[np.float64] = field(default_factory=lambda: np.zeros((3, 3)))  # rows are lattice vectors
    pbc: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(3, dtype=bool))
    values: dict[str, Any] = field(default_factory=dict)
    line: int | None = None

    def __post_init__(self) -> None:
        numbers = self.atomic_numbers
        if len(numbers) and (int(numbers.min()) < 1 or int(numbers.max()) > len(ATOMIC_NUMBERS)):
            bad = sorted({int(z) for z in numbers if not 1 <= z <= len(ATOMIC_NUMBERS)})
            raise InputError(
                f"{self.where}: atomic numbers {bad} are no elements; needed are 1 to {len(ATOMIC_NUMBERS)}"
            )

    @classmethod
    def unchecked(cls, **values: Any) -> Frame:
        """A frame of elements that are known to be such, all fields given."""
        frame = object.__new__(cls)
        frame.__dict__.update(values)
        return frame

    @property
    def where(self) -> str:
        """The frame's name in messages, such as "train.xyz frame 12 (line 349)"."""
        return f"{self.file} frame {self.number}" + (f" (line {self.line})" if self.line is not None else "")

    def __len__(self) -> int:
        return len(self.atomic_numbers)

    def first(self, keys: tuple[str, ...]) -> Any:
        """The value under the first of the keys that has one; None when none has."""
        for key in keys:
            value = self.values.get(key)
            if value is not None:
                return value
        return None


@dataclass(frozen=True)
class Content:
    """What a reader finds in a file, and what it knows of the format.

    `names` says under which keys the format has a label, where these are not the usual ones of `fireassay.data.keys`,
    and with `settled` that no other key is meant. `units` are those that the file declares, `assumed` those that its
    format is known to have, in the words of `Units.of`. `notes` are sentences about how it was read.
    """

    file: str
    format: str
    frames: list[Frame]
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    assumed: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    settled: bool = False
    size: int = 0  # bytes of the file that a piece of a content took


@contextmanager
def many_objects() -> Iterator[None]:
    """Lets frames and structures be made without a search for cycles among them, which would take a third of the time.

    They have none; each is freed when the last reference to it goes.
    """
    searching = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searching:
            gc.enable()


def key_shapes(frames: list[Frame]) -> dict[str, tuple[str, int]]:
    """Every key of the file with a description of its value, such as "float (N, 3)", and the number of frames."""
    found: dict[str, tuple[str, int]] = {}
    for frame in frames:
        for key, value in frame.values.items():
            before = found.get(key)
            found[key] = (describe(value, len(frame)), 1) if before is None else (before[0], before[1] + 1)
    return found


def describe(value: Any, n_atoms: int) -> str:
    """The type and shape of a value of a frame of `n_atoms` atoms, the per-atom dimension as N."""
    if isinstance(value, np.ndarray):
        name = {"f": "float", "i": "int", "u": "int", "b": "bool"}.get(value.dtype.kind, "text")
        shape = ["N" if k == 0 and n == n_atoms else str(n) for k, n in enumerate(value.shape)]
        return f"{name} ({', '.join(shape)}{',' if len(shape) == 1 else ''})"
    if isinstance(value, np.generic):
        value = value.item()
    names = {bool: "bool", int: "int", float: "float", str: "text"}
    return names.get(type(value), type(value).__name__)


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape of an array, () for anything else."""
    return value.shape if isinstance(value, np.ndarray) else ()


def is_number(value: Any) -> bool:
    """Whether the value is one real number: a scalar or an array of a single one."""
    if isinstance(value, (bool, np.bool_)):
        return False
    if isinstance(value, (int, float, np.integer, np.floating)):
        return True
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiu" and value.size == 1


def is_numeric(value: Any) -> bool:
    """Whether the value is an array of real numbers."""
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiu"
