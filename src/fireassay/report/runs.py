"""Run folders as the report reads them: typed records checked once, each file with its hash and its command."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from fireassay.errors import InputError
from fireassay.records import AssayRecord, Provenance, RunRecord, fingerprint_of_file, load_assay, read_text, renewal
from fireassay.records.accuracy import AccuracyResult

R = TypeVar("R")


class ByName(Protocol):
    """A result with something for each of its splits."""

    @property
    def splits(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Source:
    """One record file: where it lies relative to the report, what it holds (SHA-256), which command wrote it."""

    id: str
    run: str
    kind: str
    path: str
    sha256: str
    arrays_path: str
    arrays_sha256: str
    command: str
    time: str
    versions: dict[str, str]

    @property
    def order(self) -> int:
        """The number in the mark."""
        return int(self.id[1:])


@dataclass(frozen=True)
class LeftOut:
    """Why a record of a folder is not in the report, and the command that renews it."""

    reason: str
    command: str


@dataclass(frozen=True)
class Run:
    """One potential: its records, and a source for each of them. `metrics` maps a column to its (epochs,) values."""

    index: int
    label: str
    folder: Path
    record: RunRecord
    metrics: dict[str, NDArray[np.float64]]
    assays: dict[str, AssayRecord[Any]]
    left_out: dict[str, LeftOut] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)

    def result(self, kind: type[R]) -> R | None:
        """The result of this type; None when there is none that belongs to the potential."""
        return next((r.result for r in self.assays.values() if isinstance(r.result, kind)), None)

    def splits(self, kind: type[ByName]) -> list[str]:
        """The split names of such a result, in the order of their temperature, then as recorded."""
        result = self.result(kind)
        return sorted(result.splits if result else [], key=lambda name: self.temperature(name) or np.inf)

    @property
    def calculator(self) -> bool:
        """Whether this is somebody's calculator, without weights of ours and without a training."""
        return self.record.source == "calculator"

    def temperature(self, split: str) -> float | None:
        """The temperature of a split in K: as recorded, else what a name such as 300K says, else None."""
        accuracy = self.result(AccuracyResult)
        found = accuracy.splits.get(split) if accuracy else None
        if found is not None and found.temperature is not None:
            return found.temperature
        named = re.fullmatch(r"(\d+(?:\.\d+)?) ?K", split)
        return float(named[1]) if named else None


def load_runs(folders: Sequence[Path], output: Path, kinds: Mapping[str, type]) -> list[Run]:
    """Reads run folders; source paths are relative to the folder of `output`, `kinds` are the results' types by assay.

    Raises InputError when there are none, one is no run folder, or a record is damaged or of another version.
    """
    if not folders:
        raise InputError("no run folder was given; name at least one folder that a training or an assay wrote")
    folders = [Path(folder) for folder in folders]
    runs: list[Run] = []
    for index, (folder, label) in enumerate(zip(folders, _labels(folders), strict=True)):
        first = sum(len(run.sources) for run in runs)
        runs.append(_load_run(index, label, folder, output.parent, first, kinds))
    return runs


def with_result(runs: Sequence[Run], kind: type[R]) -> list[tuple[Run, R]]:
    """The runs that have a result of this type, with it."""
    return [(run, result) for run in runs if (result := run.result(kind)) is not None]


def split_names(runs: Sequence[Run], kind: type[ByName], training: bool = True) -> list[str]:
    """The splits of all runs, coolest first, each named once; on request without `train`, which tests nothing."""
    names = list(dict.fromkeys(name for run in runs for name in run.splits(kind)))
    names = [name for name in names if training or name != "train"]
    return sorted(names, key=lambda name: next((t for r in runs if (t := r.temperature(name)) is not None), np.inf))


def _labels(folders: Sequence[Path]) -> list[str]:
    resolved = [folder.resolve() for folder in folders]
    if len(set(resolved)) < len(resolved):
        raise InputError("a run folder was named twice; name each once")
    for depth in range(1, max(len(path.parts) for path in resolved) + 1):
        labels = ["/".join(path.parts[-depth:]) for path in resolved]
        if len(set(labels)) == len(labels):
            return labels
    return [str(path) for path in resolved]


def _load_run(index: int, label: str, folder: Path, base: Path, first: int, kinds: Mapping[str, type]) -> Run:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; name a run folder that a training or an assay wrote")
    if not (folder / "run.json").exists():
        raise InputError(f"{folder} has no run.json; name a run folder that a training or an assay wrote")
    record = RunRecord.load(folder)
    found = {p.stem: load_assay(p, kinds.get(p.stem)) for p in sorted((folder / "assays").glob("*.json"))}
    order = [*kinds, *(name for name in found if name not in kinds)]
    found = {name: found[name] for name in order if name in found}
    metrics = _metrics(folder / "metrics.jsonl")
    if not metrics and not found:
        raise InputError(f"{folder} holds neither metrics.jsonl nor assays/*.json; train or assay a potential first")
    left_out = _stale(folder, record, found)
    if "metrics" in left_out:
        metrics = {}
    run = Run(index, label, folder, record, metrics, {k: v for k, v in found.items() if k not in left_out}, left_out)
    files = {"run": folder / "run.json"} | ({"metrics": folder / "metrics.jsonl"} if metrics else {})
    files |= {name: folder / "assays" / f"{name}.json" for name in run.assays}
    for kind, path in files.items():
        provenance = run.assays[kind].provenance if kind in run.assays else record.provenance
        mark = f"S{first + len(run.sources) + 1}"
        run.sources[kind] = _source(mark, label, kind, path, base, provenance, kind in run.assays)
    return run


def _stale(folder: Path, record: RunRecord, assays: Mapping[str, AssayRecord[Any]]) -> dict[str, LeftOut]:
    """The records that belong to another potential, or to other training frames, than the folder does now."""
    potential = folder / "potential.safetensors"
    weights = fingerprint_of_file(potential) if potential.exists() else record.weights
    stale = {}
    for name, assay in assays.items():
        if assay.weights != weights:
            stale[name] = LeftOut("is of other weights than the potential in the folder", renewal(folder, name))
        elif (
            record.data is not None and assay.frames.get("train", record.data.train_frames) != record.data.train_frames
        ):
            stale[name] = LeftOut("rests on other training frames than the potential", renewal(folder, name))
    if record.source == "training" and record.weights and record.weights != weights:
        again = f"fireassay train --restart --output {folder}"
        stale["metrics"] = LeftOut("are of another training than the potential in the folder", again)
    return stale


def _metrics(path: Path) -> dict[str, NDArray[np.float64]]:
    """Columns of metrics.jsonl; a last line without its newline was cut by a kill and is left out."""
    if not path.exists():
        return {}
    try:
        complete = read_text(path).rpartition("\n")[0]
        rows = [json.loads(line) for line in complete.splitlines() if line.strip()]
        by_epoch = {row["epoch"]: row for row in rows}
        names = dict.fromkeys(name for row in rows for name in row)
        numbers = [[_number(row.get(name)) for row in by_epoch.values()] for name in names]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"cannot read {path}: {type(error).__name__}: {error}; the file is damaged") from error
    return {name: np.array(values) for name, values in zip(names, numbers, strict=True)} if rows else {}


def _number(value: Any) -> float:
    return np.nan if value is None or isinstance(value, str | list | dict) else float(value)


def _source(id: str, label: str, kind: str, path: Path, base: Path, provenance: Provenance, assay: bool) -> Source:
    arrays = path.with_suffix(".npz") if assay else None
    return Source(
        id=id,
        run=label,
        kind=kind,
        path=_relative(path, base),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        arrays_path=_relative(arrays, base) if arrays else "",
        arrays_sha256=hashlib.sha256(arrays.read_bytes()).hexdigest() if arrays else "",
        command=provenance.command,
        time=provenance.time,
        versions=dict(provenance.versions),
    )


def _relative(path: Path, base: Path) -> str:
    try:
        return Path(os.path.relpath(path.resolve(), base.resolve())).as_posix()
    except ValueError:  # another drive on Windows
        return path.resolve().as_posix()
