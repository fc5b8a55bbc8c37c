"""Run directories as the report reads them: records checked once, each file with its hash and its command."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from fireassay.errors import InputError
from fireassay.records import AssayResult, read_json

ASSAYS = ("accuracy", "stability", "landscape", "uncertainty")
LIMIT = 10  # potentials in one report: as many as there are colours that stay apart


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
class Run:
    """One potential: its records, and a source for each of them. `metrics` maps a column to its (epochs,) values."""

    index: int
    label: str
    folder: Path
    record: dict[str, Any]
    config: dict[str, Any]
    metrics: dict[str, NDArray[np.float64]]
    assays: dict[str, AssayResult]
    sources: dict[str, Source] = field(default_factory=dict)

    def number(self, assay: str, name: str) -> float | None:
        """The value called `name`, in its record's unit; None when it was not recorded or is not finite.

        Raises InputError when the record holds something that is not a number there.
        """
        result = self.assays.get(assay)
        quantity = result.values.get(name) if result else None
        if quantity is None or quantity.value is None:
            return None
        if isinstance(quantity.value, bool) or not isinstance(quantity.value, int | float):
            raise InputError(
                f"{self.folder / 'assays' / assay}.json: {name} is {str(quantity.value)[:40]!r}, a number is needed; "
                "run the assay again"
            )
        return float(quantity.value)

    def array(self, assay: str, name: str, shape: Sequence[int | None] = ()) -> NDArray[Any] | None:
        """The array called `name` (None where a dimension may be anything), or None when it was not recorded.

        Raises InputError when the shape is another or the array does not hold numbers.
        """
        result = self.assays.get(assay)
        if result is None or name not in result.arrays:
            return None
        array = result.arrays[name]
        fits = array.ndim == len(shape) and all(w in (None, g) for w, g in zip(shape, array.shape, strict=True))
        if array.dtype.kind not in "biuf" or (shape and not fits):
            wanted = "(" + ", ".join("any" if w is None else str(w) for w in shape) + ")"
            raise InputError(
                f"{self.folder / 'assays' / assay}.npz: {name} is {array.dtype}{array.shape}, numbers of shape "
                f"{wanted} are needed; run the assay again"
            )
        return array

    def splits(self, assay: str) -> list[str]:
        """The split names of `accuracy` or `uncertainty`, in the order of their temperature, then as recorded."""
        mark = {"accuracy": ".frames", "uncertainty": ".mean_error"}[assay]
        result = self.assays.get(assay)
        names = [key.removesuffix(mark) for key in result.values if key.endswith(mark)] if result else []
        names = [name for name in names if not any(name in self._seconds(other) for other in names)]
        return sorted(names, key=lambda name: self.temperature(name) or np.inf)

    def estimators(self, split: str) -> list[tuple[str, str]]:
        """Name and prefix of each estimator that judged a split, first the one that the run uses."""
        own = self.assays["uncertainty"].values.get("estimator")
        first = str(own.value) if own else "LTAU"
        return [(first, split), *((p.removeprefix(f"{split}."), p) for p in self._seconds(split))]

    def _seconds(self, split: str) -> list[str]:
        values = self.assays["uncertainty"].values if "uncertainty" in self.assays else {}
        prefixes = [f"{split}.{name}" for name in ("published", "distance_aware")]
        return [prefix for prefix in prefixes if f"{prefix}.mean_error" in values]

    @property
    def calculator(self) -> bool:
        """Whether this is somebody's calculator, without weights of ours and without a training."""
        return "calculator" in self.record

    def temperature(self, split: str) -> float | None:
        """The temperature of a split in K: as recorded, else what a name such as 300K says, else None."""
        recorded = self.number("accuracy", f"{split}.temperature")
        named = re.fullmatch(r"(\d+(?:\.\d+)?) ?K", split)
        return float(named[1]) if recorded is None and named else recorded


def load_runs(folders: Sequence[Path], output: Path) -> list[Run]:
    """Reads run directories; source paths are relative to the folder of `output`.

    Raises InputError when there are none or more than ten, when one is no run directory, or a record is damaged.
    """
    if not folders:
        raise InputError("no run directory was given; name at least one folder that a training or an assay wrote")
    if len(folders) > LIMIT:
        raise InputError(f"{len(folders)} run directories were given, a report holds at most {LIMIT}; choose fewer")
    folders = [Path(folder) for folder in folders]
    runs = []
    for index, (folder, label) in enumerate(zip(folders, _labels(folders), strict=True)):
        runs.append(_load_run(index, label, folder, output.parent, sum(len(run.sources) for run in runs)))
    return runs


def split_names(runs: Sequence[Run], assay: str, training: bool = True) -> list[str]:
    """The splits of all runs, coolest first, each named once; on request without `train`, which tests nothing."""
    names = list(dict.fromkeys(name for run in runs for name in run.splits(assay)))
    names = [name for name in names if training or name != "train"]
    return sorted(names, key=lambda name: next((t for r in runs if (t := r.temperature(name)) is not None), np.inf))


def _labels(folders: Sequence[Path]) -> list[str]:
    resolved = [folder.resolve() for folder in folders]
    if len(set(resolved)) < len(resolved):
        raise InputError("a run directory was named twice; name each once")
    for depth in range(1, max(len(path.parts) for path in resolved) + 1):
        labels = ["/".join(path.parts[-depth:]) for path in resolved]
        if len(set(labels)) == len(labels):
            return labels
    return [str(path) for path in resolved]


def _load_run(index: int, label: str, folder: Path, base: Path, first: int) -> Run:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; name a run directory that a training or an assay wrote")
    record = _object(folder / "run.json")
    run = Run(index, label, folder, record, _config(folder / "config.yaml"), *_contents(folder))
    if not run.metrics and not run.assays:
        raise InputError(f"{folder} holds neither metrics.jsonl nor assays/*.json; train or assay a potential first")
    files = {"run": folder / "run.json", "metrics": folder / "metrics.jsonl"}
    files |= {name: folder / "assays" / f"{name}.json" for name in run.assays}
    for kind, path in files.items():
        if path.exists():
            provenance = run.assays[kind].provenance if kind in run.assays else record
            run.sources[kind] = _source(f"S{first + len(run.sources) + 1}", label, kind, path, base, provenance)
    return run


def _contents(folder: Path) -> tuple[dict[str, NDArray[np.float64]], dict[str, AssayResult]]:
    assays = {}
    for name in ASSAYS:
        path = folder / "assays" / f"{name}.json"
        if not path.exists():
            continue
        try:
            assays[name] = AssayResult.load(path)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is damaged ({type(error).__name__}: {error}); run the assay again") from error
        if assays[name].assay != name or not isinstance(assays[name].provenance, dict):
            raise InputError(f"{path} is not the record of the {name} assay; run the assay again")
    return _metrics(folder / "metrics.jsonl"), assays


def _metrics(path: Path) -> dict[str, NDArray[np.float64]]:
    """Columns of metrics.jsonl; a last line without its newline was cut by a kill and is left out."""
    if not path.exists():
        return {}
    try:
        complete = path.read_text(encoding="utf-8").rpartition("\n")[0]
        rows = [json.loads(line) for line in complete.splitlines() if line.strip()]
        by_epoch = {row["epoch"]: row for row in rows}
        names = dict.fromkeys(name for row in rows for name in row)
        numbers = [[_number(row.get(name)) for row in by_epoch.values()] for name in names]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"cannot read {path}: {type(error).__name__}: {error}; the file is damaged") from error
    return {name: np.array(values) for name, values in zip(names, numbers, strict=True)} if rows else {}


def _number(value: Any) -> float:
    return np.nan if value is None or isinstance(value, str | list | dict) else float(value)


def _object(path: Path) -> dict[str, Any]:
    content = read_json(path) if path.exists() else {}
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, an object is needed; the file is damaged")
    return content


def _config(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        message = str(error).splitlines()[0]
        raise InputError(f"cannot read {path}: {message}; the file is damaged") from error
    return content if isinstance(content, dict) else {}


def _source(id: str, label: str, kind: str, path: Path, base: Path, provenance: dict[str, Any]) -> Source:
    arrays = path.with_suffix(".npz") if kind in ASSAYS else None
    nested = provenance.get("provenance")
    details = {**nested, **provenance} if isinstance(nested, dict) else provenance
    versions = details.get("versions")
    return Source(
        id=id,
        run=label,
        kind=kind,
        path=_relative(path, base),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        arrays_path=_relative(arrays, base) if arrays else "",
        arrays_sha256=hashlib.sha256(arrays.read_bytes()).hexdigest() if arrays else "",
        command=str(details.get("command") or "not recorded"),
        time=str(details.get("time") or "not recorded"),
        versions={str(k): str(v) for k, v in versions.items()} if isinstance(versions, dict) else {},
    )


def _relative(path: Path, base: Path) -> str:
    try:
        return Path(os.path.relpath(path.resolve(), base.resolve())).as_posix()
    except ValueError:  # another drive on Windows
        return path.resolve().as_posix()
