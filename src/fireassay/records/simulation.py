"""What a simulation leaves beside its trajectories: simulation.json."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from fireassay.errors import InputError
from fireassay.records.files import read_json, write_json
from fireassay.records.provenance import Provenance
from fireassay.records.stability import FailedTrajectory
from fireassay.records.typed import Unit, decode, encode, record

VERSION = 1
FILE = "simulation.json"


@record
class SimulationRecord:
    """One simulation: of what, from where, how, and how it ended.

    `source` and `origin` are as in `RunRecord`; `weights` and `start` are fingerprints. `compressibility` is what the
    barostat went by. `failures` are of replicas that ended early.
    """

    status: Literal["running", "finished"]
    source: str
    origin: str
    weights: str
    start: str
    structures: int
    replicas: int
    n_atoms: int
    settings: dict[str, Any]
    trajectories: list[str]
    compressibility: Annotated[float | None, Unit("1/GPa")] = None
    steps: int = 0
    failures: list[FailedTrajectory]
    seconds: Annotated[float, Unit("s")] = 0.0
    force_seconds: Annotated[float, Unit("s")] = 0.0
    replica_steps_per_second: Annotated[float | None, Unit("1/s")] = None
    provenance: Provenance

    def save(self, folder: Path) -> Path:
        """Writes `folder/simulation.json`."""
        write_json(folder / FILE, {"version": VERSION, **encode(self)[0]})
        return folder / FILE

    @classmethod
    def load(cls, folder: Path) -> SimulationRecord:
        """Reads `folder/simulation.json`. Raises InputError when it is damaged or of another version."""
        content = read_json(folder / FILE)
        version = content.pop("version", None) if isinstance(content, dict) else None
        if version != VERSION:
            raise InputError(f"{folder / FILE} is of version {version}, this fireassay reads {VERSION}; use --restart")
        return decode(cls, content, {}, f"{folder / FILE} is damaged")
