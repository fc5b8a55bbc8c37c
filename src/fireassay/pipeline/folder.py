"""What a run folder holds, what may change in it, and whether its records belong to the potential in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fireassay.config import Config, load_config, resolved, resolved_yaml
from fireassay.errors import InputError
from fireassay.records.assay import load_assay
from fireassay.records.files import write_text
from fireassay.records.run import RunRecord
from fireassay.records.weights import fingerprint_of_file, fingerprint_of_text
from fireassay.training.recipe import Cosine

CONFIG, POTENTIAL = "config.yaml", "potential.safetensors"
# What does not decide a training's course: it may change in a folder at any time.
_FREE = ("assays", "name", "description", "device", "threads", "data.test", "data.start", "data.reference")
# What may change as long as the training goes on: how long it takes, and what is written on the way.
_DURATION = ("training.epochs", "training.stopping", "training.checkpoints", "training.tensorboard")


def stored_config(folder: Path) -> Config | None:
    """The configuration of a run folder, None when it has none."""
    path = folder / CONFIG
    return load_config(path) if path.exists() else None


def store_config(folder: Path, config: Config) -> None:
    """Writes the configuration with all defaults filled in."""
    write_text(folder / CONFIG, resolved_yaml(config))


def differences(before: Config, now: Config) -> dict[str, tuple[Any, Any]]:
    """The settings that differ, by dotted name, before and now."""
    was, is_now = _flat(resolved(before)), _flat(resolved(now))
    names = [*was, *(name for name in is_now if name not in was)]
    return {name: (was.get(name), is_now.get(name)) for name in names if was.get(name) != is_now.get(name)}


def refused_changes(before: Config, now: Config) -> dict[str, tuple[Any, Any]]:
    """Those differences for which the potential would have to be trained anew."""
    free = _FREE + tuple(name for name in _DURATION if name != "training.epochs" or _extensible(now))
    return {name: pair for name, pair in differences(before, now).items() if not _within(name, free)}


def lengthened(before: Config, now: Config) -> bool:
    """Whether a training that has ended is to go on."""
    return any(_within(name, _DURATION[:2]) for name in differences(before, now))


def described(changes: Mapping[str, tuple[Any, Any]], most: int = 5) -> str:
    """Changes as words: training.epochs was 10, is 20."""
    shown = [f"{name} was {_short(was)}, is {_short(now)}" for name, (was, now) in list(changes.items())[:most]]
    more = len(changes) - most
    return "; ".join(shown) + (f"; and {more} more" if more > 0 else "")


def check_frames(record: RunRecord, fingerprint: str, train: str, frames: int, folder: Path) -> None:
    """Raises InputError when training and validation frames are not those that the folder's training began with."""
    before = record.data
    if before is None or before.fingerprint == fingerprint:
        return
    raise InputError(
        f"{folder}: the frames of {train} have changed since this training began ({before.frames} for training then, "
        f"{frames} now, or other labels); put the file back, choose another folder with --output, or --restart"
    )


def weights_of(folder: Path) -> str:
    """The fingerprint of the folder's potential as it is now. Raises InputError when there is none."""
    path = folder / POTENTIAL
    if path.exists():
        return fingerprint_of_file(path)
    record = RunRecord.load(folder) if (folder / "run.json").exists() else None
    if record is None or record.source != "calculator":
        raise InputError(f"{folder} has no {POTENTIAL}; finish its training with fireassay train")
    return fingerprint_of_text(record.origin)


def current(folder: Path, assay: str) -> bool:
    """Whether the folder holds a readable result of the assay for the potential that is in it now."""
    path = folder / "assays" / f"{assay}.json"
    try:
        return path.exists() and load_assay(path).weights == weights_of(folder)
    except InputError:
        return False


def discard(folder: Path) -> None:
    """Removes what belongs to the folder's potential: its file, its assays, and the record of the run."""
    for name in (POTENTIAL, "run.json", CONFIG):
        (folder / name).unlink(missing_ok=True)
    assays = folder / "assays"
    for path in sorted(assays.rglob("*"), reverse=True) if assays.is_dir() else ():
        path.rmdir() if path.is_dir() else path.unlink()


def _extensible(config: Config) -> bool:
    """A cosine's course depends on the number of epochs; other schedules can be prolonged."""
    return not isinstance(config.training.schedule, Cosine)


def _within(name: str, sections: tuple[str, ...]) -> bool:
    return any(name == section or name.startswith(f"{section}.") for section in sections)


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        items = [_flat(item, f"{path}.{key}" if path else str(key)) for key, item in value.items()]
        return {key: leaf for item in items for key, leaf in item.items()}
    return {path: value}


def _short(value: Any) -> str:
    words = "absent" if value is None else str(value)
    return words if len(words) <= 60 else f"{words[:57]}..."
