"""Checkpoints: one safetensors file each, its JSON in the header, replaced atomically; nothing is ever unpickled.

A file holds the whole state, so there is no moment at which two files disagree. They are called EPOCH-BATCH.safetensors
after the epochs that are complete and the batches done of the next one; the newest two are kept.
"""

from __future__ import annotations

import contextlib
import json
import random
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from fireassay.errors import InputError
from fireassay.records import atomic
from fireassay.training.distributed import Ranks

FORMAT, VERSION = "fireassay-checkpoint", 1
HEADER = "fireassay"
WEIGHTS_FORMAT = "fireassay-weights"
KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors, and JSON values."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, epoch: int, batch: int) -> Path:
    """Writes `folder/EPOCH-BATCH.safetensors` and removes all but the newest two.

    Raises InputError when the folder cannot be written or the disk is full; the earlier checkpoints stay.
    """
    path = folder / f"{epoch:07d}-{batch:07d}.safetensors"
    _write(path, checkpoint.tensors, {"format": FORMAT, "version": VERSION, "state": checkpoint.values})
    for old in checkpoints(folder)[:-KEPT]:
        with contextlib.suppress(OSError):
            old.unlink()
    return path


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, oldest first."""
    return sorted(folder.glob("[0-9]*-[0-9]*.safetensors"))


def remove_leftovers(folder: Path) -> None:
    """Removes the unfinished files of a process that was killed while it wrote."""
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            path.unlink()


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads what `save_checkpoint` wrote. Raises InputError when it is cut short, damaged or of another version."""
    others = [other.name for other in checkpoints(path.parent) if other != path]
    advice = f"remove it to continue from {others[-1]}" if others else "start the training again"
    tensors, metadata = _read(path, FORMAT, VERSION, advice)
    return Checkpoint(tensors, metadata["state"])


def save_weights(path: Path, weights: Mapping[str, Tensor], extra: Mapping[str, Any] | None = None) -> None:
    """Writes a state dict as safetensors, atomically; `extra` are further JSON values for the header."""
    _write(path, dict(weights), {"format": WEIGHTS_FORMAT, "version": VERSION, **(extra or {})})


def load_weights(path: Path) -> dict[str, Tensor]:
    """The state dict that `save_weights` wrote. Raises InputError when it is damaged or of another version."""
    return _read(path, WEIGHTS_FORMAT, VERSION, "train again")[0]


def optimiser_state(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's tensors, such as `optimiser.3.exp_avg`."""
    state = optimiser.state_dict()["state"]
    return {
        f"optimiser.{number}.{name}": value
        for number, entries in state.items()
        for name, value in entries.items()
        if isinstance(value, Tensor)
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Gives the optimiser the tensors of `optimiser_state`."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimiser":
            number, _, entry = rest.partition(".")
            state.setdefault(int(number), {})[entry] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def random_state(device: torch.device, ranks: Ranks) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The states of all random number generators: torch's of every process as tensors, Python's and numpy's as JSON."""
    place = device if device.type == "cuda" else torch.device("cpu")
    tensors = {"rng.cpu": torch.stack(ranks.gathered(torch.get_rng_state().to(place)))}
    if device.type == "cuda":
        tensors["rng.cuda"] = torch.stack(ranks.gathered(torch.cuda.get_rng_state(device).to(place)))
    state = np.random.get_state(legacy=False)  # noqa: NPY002 - a potential may draw from the global generator
    return tensors, {"python": random.getstate(), "numpy": _listed(state)}


def restore_random_state(
    tensors: Mapping[str, Tensor], values: Mapping[str, Any], device: torch.device, ranks: Ranks
) -> None:
    """Continues the generators; a process that the checkpoint does not know keeps its torch generators."""
    if ranks.rank < len(tensors["rng.cpu"]):
        torch.set_rng_state(tensors["rng.cpu"][ranks.rank].cpu().clone())  # torch reads a view from its storage
        if device.type == "cuda" and "rng.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["rng.cuda"][ranks.rank].cpu().clone(), device)
    version, numbers, gauss = values["python"]
    random.setstate((version, tuple(numbers), gauss))
    state = values["numpy"]
    state["state"]["key"] = np.array(state["state"]["key"], dtype=np.uint32)
    np.random.set_state(state)  # noqa: NPY002


def weights_of(potential: nn.Module) -> dict[str, Tensor]:
    """A copy of the state dict, on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in potential.state_dict().items()}


def _write(path: Path, tensors: Mapping[str, Tensor], header: dict[str, Any]) -> None:
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    header = {**header, "crc32": _checksum(plain)}
    content = safetensors.torch.save(plain, {HEADER: json.dumps(header)})  # one key: equal content, equal bytes
    with atomic(path) as file:
        file.write(content)


def _read(path: Path, form: str, version: int, advice: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(HEADER, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except Exception as error:
        text = " ".join(str(error).split())
        raise InputError(f"cannot read {path}: {text}; it is missing, cut short or damaged; {advice}") from error
    if header.get("format") != form or header.get("version") != version:
        found = f"{header.get('format', 'a file')} version {header.get('version', 'unknown')}"
        raise InputError(f"{path} is {found}, this fireassay reads {form} version {version}; {advice}")
    if header.get("crc32") != _checksum(tensors):
        raise InputError(f"{path} is damaged: its checksum does not match; {advice}")
    return tensors, header


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    value = 0
    for name in sorted(tensors):
        content: Any = tensors[name].reshape(-1).view(torch.uint8).numpy()
        value = zlib.crc32(content, zlib.crc32(name.encode(), value))
    return value


def _listed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _listed(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value
