"""The public package's side of benchmarks/landscape.py, run by an interpreter that has nequip 0.19.1.

    python -P reference_landscape.py ARGUMENTS.json WEIGHTS.npz FRAMES.xyz BATCH

Writes its weights, under our names, for the other sides. The weights are reloaded for every grid point but stay where
they are: their cost does not depend on their values.
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
    size = int(sys.argv[4])
    record_nequip.SPECIES = dict(zip(("H", "C", "N", "O"), arguments["species"], strict=True))
    model = record_nequip.build(arguments, "float32")
    mapped = record_nequip.weights(model, arguments)
    np.savez(weights, **{name: value.detach().numpy() for name, value in mapped.items()})
    prepared, forces = [], []
    for atoms in ase.io.read(frames, ":"):
        forces.append(torch.tensor(atoms.get_forces(), dtype=torch.float32))
        atoms.calc = None
        data = from_ase(atoms)
        types = [list(record_nequip.SPECIES).index(s) for s in atoms.get_chemical_symbols()]
        data[AtomicDataDict.ATOM_TYPE_KEY] = torch.tensor(types)
        data = compute_neighborlist_(data, r_max=arguments["cutoff"])
        for key in (AtomicDataDict.CELL_KEY, AtomicDataDict.PBC_KEY, AtomicDataDict.EDGE_CELL_SHIFT_KEY):
            data.pop(key, None)  # no stress, as on our side
        prepared.append(data)
    state = {key: value.clone() for key, value in model.state_dict().items()}

    def grid_point() -> float:
        model.load_state_dict(state)
        squares, count = 0.0, 0
        for first in range(0, len(prepared), size):
            data = AtomicDataDict.batched_from_list(prepared[first : first + size])
            out = model({key: value.clone() if torch.is_tensor(value) else value for key, value in data.items()})
            error = out[AtomicDataDict.FORCE_KEY].detach() - torch.cat(forces[first : first + size])
            squares += error.square().sum().item()
            count += error.numel()
        return (squares / count) ** 0.5

    serve({"grid point": grid_point})


main()
