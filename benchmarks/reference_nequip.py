"""The public package's side of benchmarks/nequip.py, run by an interpreter that has it.

python -P reference_nequip.py ARGUMENTS.json WEIGHTS.npz FRAMES.xyz
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent / "tests" / "reference")]  # behind the installed packages

import ase.io  # noqa: E402
import numpy as np  # noqa: E402
import record_nequip  # noqa: E402
import torch  # noqa: E402
from nequip.data import AtomicDataDict, compute_neighborlist_, from_ase  # noqa: E402
from nequip.utils.global_state import set_global_state  # noqa: E402
from side_by_side import serve  # noqa: E402


def main() -> None:
    set_global_state()
    arguments, weights, frames = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), sys.argv[3]
    record_nequip.SPECIES = dict(zip(("H", "C", "N", "O"), arguments["species"], strict=True))
    model = record_nequip.build(arguments, "float32")
    mapped = record_nequip.weights(model, arguments)
    np.savez(weights, **{name: value.detach().numpy() for name, value in mapped.items()})
    prepared = []
    for atoms in ase.io.read(frames, ":10"):
        atoms.calc = None
        data = from_ase(atoms)
        types = [list(record_nequip.SPECIES).index(s) for s in atoms.get_chemical_symbols()]
        data[AtomicDataDict.ATOM_TYPE_KEY] = torch.tensor(types)
        data = compute_neighborlist_(data, r_max=arguments["cutoff"])
        for key in (AtomicDataDict.CELL_KEY, AtomicDataDict.PBC_KEY, AtomicDataDict.EDGE_CELL_SHIFT_KEY):
            data.pop(key, None)  # no stress, as on our side
        prepared.append(data)

    def evaluate(count: int) -> float:
        data = AtomicDataDict.batched_from_list(prepared[:count])
        batch = {key: value.clone() if torch.is_tensor(value) else value for key, value in data.items()}
        out = model(batch)
        return out[AtomicDataDict.FORCE_KEY].detach().abs().sum().item()

    optimiser = torch.optim.Adam(model.parameters(), lr=0.0)

    def train() -> float:
        data = AtomicDataDict.batched_from_list(prepared[:5])
        out = model({key: value.clone() if torch.is_tensor(value) else value for key, value in data.items()})
        loss = out[AtomicDataDict.TOTAL_ENERGY_KEY].square().mean() + out[AtomicDataDict.FORCE_KEY].square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return loss.item()

    serve({"one frame": lambda: evaluate(1), "batch of 10": lambda: evaluate(10), "training step of 5": train})


main()
