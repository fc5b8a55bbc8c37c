"""What a run folder says of its potential: run.json."""

from __future__ import annotations

from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Literal

from fireassay.errors import InputError
from fireassay.records.files import read_json, write_json
from fireassay.records.provenance import Provenance, renewal
from fireassay.records.typed import Unit, decode, encode, record

VERSION = 2


@record
class DataRecord:
    """The frames of a training; `fingerprint` is that of training and validation frames together."""

    fingerprint: str
    train: str  # as named in the configuration
    frames: int
    train_frames: str  # fingerprint of the training frames alone
    validation_frames: int
    test: dict[str, int] = field(default_factory=dict)  # frames by split


@record
class IsolatedAtoms:
    """Isolated-atom energies by symbol, and where they come from; of a fit how well the data determine them."""

    source: str
    e0: Annotated[dict[str, float], Unit("eV")]
    sentence: str = ""
    rank: int | None = None
    condition: float | None = None


@record
class BaselineRecord:
    """What lies under the network: per-species energies, scale (eV) and shift (eV), by symbol, before training."""

    e0: IsolatedAtoms
    scale: Annotated[dict[str, float], Unit("eV")]
    shift: Annotated[dict[str, float], Unit("eV")]
    average_neighbours: float


@record
class TrainingRecord:
    """How a training ended; the rows are those of metrics.jsonl."""

    source: str  # live, ema or swa: which weights were kept
    finished: str
    epochs: int  # that were begun
    share: float = 1.0  # of the last of them that was done; less than one when the time limit cut it
    best_epoch: int
    best: dict[str, float | None]
    last: dict[str, float | None]
    seconds: Annotated[float, Unit("s")]
    notes: list[str] = field(default_factory=list)


@record
class RunRecord:
    """One potential: where it comes from, the fingerprint of its weights, and its training if it had one here.

    `source` is `training`, `file` or `calculator`; of a file `origin` is its path, of a calculator the text that names
    it. `weights` is empty until there are any; for a calculator it is a hash of that text.
    """

    name: str
    source: Literal["training", "file", "calculator"]
    status: Literal["running", "interrupted", "failed", "finished"]
    weights: str = ""
    origin: str = ""
    seed: int | None = None
    parameters: int | None = None
    architecture: str = ""
    data: DataRecord | None = None
    baseline: BaselineRecord | None = None
    training: TrainingRecord | None = None
    notes: list[str] = field(default_factory=list)
    provenance: Provenance

    def save(self, folder: Path) -> None:
        """Writes `folder/run.json`."""
        write_json(folder / "run.json", {"version": VERSION, **encode(self)[0]})

    def changed(self, **changes: object) -> RunRecord:
        """The record with other values."""
        return replace(self, **changes)  # type: ignore[arg-type]

    @classmethod
    def load(cls, folder: Path) -> RunRecord:
        """Reads `folder/run.json`. Raises InputError when it is damaged or of another version."""
        path = folder / "run.json"
        content = read_json(path)
        version = content.pop("version", 1) if isinstance(content, dict) else None
        if version != VERSION:
            raise InputError(
                f"{path} is a record of version {version}, this fireassay reads version {VERSION}; "
                f"renew it with: {renewal(folder)}"
            )
        return decode(cls, content, {}, f"{path} is damaged")
