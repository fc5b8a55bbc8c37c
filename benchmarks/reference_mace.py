"""The public package's side of benchmarks/mace.py, run by an interpreter that has it.

python -P reference_mace.py ARGUMENTS.json WEIGHTS.npz FRAMES.xyz
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent / "tests" / "reference")]  # behind the installed packages

import record_mace  # noqa: E402, I001  (first: it imports mace before e3nn)
import ase.io  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from mace import data  # noqa: E402
from mace.tools import AtomicNumberTable, torch_geometric  # noqa: E402
from side_by_side import serve  # noqa: E402


def main() -> None:
    arguments, weights, frames = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), sys.argv[3]
    torch.set_default_dtype(torch.float32)
    model = record_mace.model_of(arguments, seed=0)
    if not weights.exists():
        np.savez(weights, **{name: value.detach().numpy() for name, value in model.named_parameters()})
    table = AtomicNumberTable(arguments["species"])
    configurations = [data.config_from_atoms(atoms) for atoms in ase.io.read(frames, ":10")]
    prepared = [data.AtomicData.from_config(c, z_table=table, cutoff=arguments["cutoff"]) for c in configurations]

    def batch_of(count: int) -> dict[str, torch.Tensor]:
        loader = torch_geometric.dataloader.DataLoader(prepared[:count], batch_size=count)
        return next(iter(loader)).to_dict()

    batches = {count: batch_of(count) for count in (1, 5, 10)}

    def evaluate(count: int) -> float:
        return model(dict(batches[count]))["forces"].detach().abs().sum().item()

    optimiser = torch.optim.Adam(model.parameters(), lr=0.0)

    def train() -> float:
        out = model(dict(batches[5]), training=True)
        loss = out["energy"].square().mean() + out["forces"].square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return loss.item()

    serve({"one frame": lambda: evaluate(1), "batch of 10": lambda: evaluate(10), "training step of 5": train})


main()
