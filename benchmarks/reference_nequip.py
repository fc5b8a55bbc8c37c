"""The side of nequip 0.19.1 in benchmarks/architectures.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import record_nequip
import reference_side
import torch
from ase import Atoms
from nequip.data import AtomicDataDict, compute_neighborlist_, from_ase
from nequip.utils.global_state import set_global_state

SYMBOLS = {1: "H", 6: "C", 7: "N", 8: "O", 29: "Cu"}


def build(arguments: Mapping[str, Any]) -> tuple[torch.nn.Module, dict[str, np.ndarray]]:
    record_nequip.SPECIES = {SYMBOLS[z]: z for z in arguments["species"]}
    model = record_nequip.build(dict(arguments), "float32")
    mapped = record_nequip.weights(model, dict(arguments))
    return model, {name: value.detach().numpy() for name, value in mapped.items()}


def prepare(frames: Sequence[Atoms], arguments: Mapping[str, Any]) -> Any:
    prepared = []
    for atoms in frames:
        data = from_ase(atoms)
        types = [arguments["species"].index(z) for z in atoms.numbers]
        data[AtomicDataDict.ATOM_TYPE_KEY] = torch.tensor(types)
        data = compute_neighborlist_(data, r_max=arguments["cutoff"])
        if not atoms.pbc.any():  # no stress, as on our side
            for key in (AtomicDataDict.CELL_KEY, AtomicDataDict.PBC_KEY, AtomicDataDict.EDGE_CELL_SHIFT_KEY):
                data.pop(key, None)
        prepared.append(data)
    return AtomicDataDict.batched_from_list(prepared)


def evaluate(model: torch.nn.Module, batch: Any, training: bool) -> tuple[torch.Tensor, torch.Tensor]:
    out = model({key: value.clone() if torch.is_tensor(value) else value for key, value in batch.items()})
    return out[AtomicDataDict.TOTAL_ENERGY_KEY], out[AtomicDataDict.FORCE_KEY]


set_global_state()
reference_side.run(build, prepare, evaluate)
