"""The side of mace-torch 0.3.16 in benchmarks/architectures.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import record_mace  # isort: skip  (first: it imports mace before e3nn)
import numpy as np
import reference_side
import torch
from ase import Atoms
from mace import data
from mace.tools import AtomicNumberTable, torch_geometric


def build(arguments: Mapping[str, Any]) -> tuple[torch.nn.Module, dict[str, np.ndarray]]:
    model = record_mace.model_of(dict(arguments), seed=0)
    return model, {name: value.detach().numpy() for name, value in model.named_parameters()}


def prepare(frames: Sequence[Atoms], arguments: Mapping[str, Any]) -> Any:
    table = AtomicNumberTable(arguments["species"])
    configurations = [data.config_from_atoms(atoms) for atoms in frames]
    prepared = [data.AtomicData.from_config(c, z_table=table, cutoff=arguments["cutoff"]) for c in configurations]
    return next(iter(torch_geometric.dataloader.DataLoader(prepared, batch_size=len(prepared)))).to_dict()


def evaluate(model: torch.nn.Module, batch: Any, training: bool) -> tuple[torch.Tensor, torch.Tensor]:
    out = model(dict(batch), training=training)
    return out["energy"], out["forces"]


torch.set_default_dtype(torch.float32)
reference_side.run(build, prepare, evaluate)
