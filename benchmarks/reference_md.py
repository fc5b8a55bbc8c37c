"""The public package's side of benchmarks/md.py: MACECalculator under ASE, run by an interpreter that has both.

python -P reference_md.py ARGUMENTS.json WEIGHTS.npz START.npz STEPS
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent / "tests" / "reference")]  # behind the installed packages

import record_mace  # noqa: E402, I001  (first: it imports mace before e3nn)
import numpy as np  # noqa: E402
import torch  # noqa: E402
from ase import Atoms, units  # noqa: E402
from ase.md.nvtberendsen import NVTBerendsen  # noqa: E402
from mace.calculators import MACECalculator  # noqa: E402
from side_by_side import serve  # noqa: E402


def main() -> None:
    arguments, weights = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    start, steps = np.load(sys.argv[3]), int(sys.argv[4])
    torch.set_default_dtype(torch.float32)
    model = record_mace.model_of(arguments, seed=0)
    if not weights.exists():
        np.savez(weights, **{name: value.detach().numpy() for name, value in model.named_parameters()})
    calculator = MACECalculator(models=[model], device="cpu", default_dtype="float32")

    def dynamics() -> float:
        atoms = Atoms(start["atomic_numbers"], start["positions"])
        atoms.set_velocities(start["velocities"] / units.fs)
        atoms.calc = calculator
        NVTBerendsen(atoms, units.fs, temperature_K=float(start["temperature"]), taut=250 * units.fs).run(steps)
        return float(np.abs(atoms.positions).sum())

    serve({"molecular dynamics": dynamics})


main()
