"""The side of the public Allegro in benchmarks/architectures.py.

Sizes with the two-body network of the paper need version 0.2.0 (the authors' repository), the others the package
nequip-allegro 0.3.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import record_allegro
import reference_side
import torch
from ase import Atoms
from ase.data import chemical_symbols


def build(arguments: Mapping[str, Any]) -> tuple[torch.nn.Module, dict[str, np.ndarray]]:
    if (arguments.get("two_body", "one_hot") == "one_hot") != record_allegro.PAPER:
        raise SystemExit(f"version {record_allegro.allegro.__version__} has another two-body network than {arguments}")
    record_allegro.SPECIES = {chemical_symbols[z]: z for z in arguments["species"]}
    model = record_allegro.build(dict(arguments), "float32")
    mapped = record_allegro.weights(model, dict(arguments))
    return model, {name: value.detach().numpy() for name, value in mapped.items()}


def prepare(frames: Sequence[Atoms], arguments: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return record_allegro.prepare(list(frames), arguments["cutoff"], torch.float32)


reference_side.run(build, prepare, record_allegro.evaluate)
