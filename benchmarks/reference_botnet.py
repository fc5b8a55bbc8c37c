"""The side of the authors' code, github.com/gncs/botnet at 0929483, in benchmarks/architectures.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import record_botnet
import reference_side
import torch
from ase import Atoms


def build(arguments: Mapping[str, Any]) -> tuple[torch.nn.Module, dict[str, np.ndarray]]:
    record_botnet.SPECIES = {str(z): z for z in arguments["species"]}
    model = record_botnet.build(dict(arguments), torch.float32)
    mapped = record_botnet.weights(model, dict(arguments))
    return model, {name: value.detach().numpy() for name, value in mapped.items()}


def prepare(frames: Sequence[Atoms], arguments: Mapping[str, Any]) -> Any:
    return record_botnet.batch_of(list(frames), arguments["cutoff"], arguments["species"])


def evaluate(model: torch.nn.Module, batch: Any, training: bool) -> tuple[torch.Tensor, torch.Tensor]:
    positions = batch["positions"].clone()
    out = model(record_botnet.Batch({**batch, "positions": positions}), training=training)
    return out["energy"], out["forces"]


torch.set_default_dtype(torch.float32)
reference_side.run(build, prepare, evaluate)
