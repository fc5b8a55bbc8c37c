"""A potential as one file: weights as safetensors, the architecture as JSON in the header; no code is ever executed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from fireassay.errors import InputError
from fireassay.kernels import KERNELS
from fireassay.models import MODELS
from fireassay.potential import Baseline, Potential, Sum
from fireassay.records.files import atomic
from fireassay.records.weights import header_of

FORMAT, VERSION = "fireassay-potential", 2
WRAPPERS: dict[str, type[Potential]] = {"baseline": Baseline, "sum": Sum, **KERNELS}
_EARLIER = {"local_sum": "sum"}  # names of types in files of earlier versions


def classes() -> dict[str, type[Potential]]:
    """Every kind of potential that a file can hold, by the name that stands in it."""
    return {**MODELS, **WRAPPERS}


def describe(potential: Potential) -> dict[str, Any]:
    """The potential's architecture as JSON: its type and constructor arguments, wrapped potentials included.

    Raises InputError for a class that this package does not know.
    """
    name = next((name for name, cls in classes().items() if type(potential) is cls), None)
    if name is None:
        raise InputError(f"a {type(potential).__name__} cannot be saved: it is none of {', '.join(classes())}")
    arguments = {key: _described(value) for key, value in potential.arguments.items()}
    return {"type": name, "arguments": arguments}


def _described(value: Any) -> Any:
    if isinstance(value, Potential):
        return describe(value)
    if isinstance(value, list | tuple):
        return [_described(item) for item in value]
    return value


def rebuild(description: Mapping[str, Any]) -> Potential:
    """The potential of a description, with fresh weights. Raises InputError when it is not one of ours."""
    given = description.get("type")
    name = _EARLIER.get(str(given), given)
    if name not in classes():
        raise InputError(f"the potential's type is {name!r}; this version knows {', '.join(classes())}")
    try:
        arguments = {key: _rebuilt(value) for key, value in description["arguments"].items()}
        return classes()[name](**arguments)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"the description of a {name} does not fit this version: {error}") from error


def _rebuilt(value: Any) -> Any:
    if isinstance(value, Mapping) and set(value) == {"type", "arguments"}:
        return rebuild(value)
    if isinstance(value, list):
        return [_rebuilt(item) for item in value]
    return value


def save_potential(potential: Potential, path: Path, extra: Mapping[str, str] | None = None) -> None:
    """Writes the file atomically; `extra` is further metadata, texts only. Equal potentials give equal bytes."""
    header = {
        "format": FORMAT,
        "version": VERSION,
        "dtype": str(potential.dtype).removeprefix("torch."),
        "potential": describe(potential),
        **(extra or {}),
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in potential.state_dict().items()}
    # One key: the order of several is drawn at random.
    content = safetensors.torch.save(tensors, {"fireassay": json.dumps(header, sort_keys=True)})
    with atomic(path) as file:
        file.write(content)


def load_potential(path: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Potential:
    """The potential of a file that `save_potential` wrote, in evaluation mode; no code of the file is executed.

    Raises InputError when the file is missing, cut short, of another format or version.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = header_of(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except Exception as error:
        text = " ".join(str(error).split())
        raise InputError(
            f"cannot read {path} as a potential: {text}; it is missing, cut short or not safetensors"
        ) from error
    if header.get("format") != FORMAT or header.get("version") not in (1, VERSION):
        found = f"{header.get('format')} version {header.get('version')}"
        raise InputError(f"{path} is {found}; this fireassay reads {FORMAT} up to version {VERSION}")
    try:
        potential = rebuild(dict(header["potential"]))
        precision = {"float32": torch.float32, "float64": torch.float64}.get(header["dtype"])
        potential = potential.to(precision) if precision is not None else potential
        potential.load_state_dict(tensors)
    except (KeyError, RuntimeError, TypeError) as error:
        text = " ".join(str(error).split())[:300]
        raise InputError(f"{path}: weights and architecture do not belong together: {text}") from error
    return potential.to(device=device, dtype=dtype).eval()
