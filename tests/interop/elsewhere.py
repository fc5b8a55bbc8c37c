"""Models trained by mace-torch and by nequip themselves, in their own interpreters, for the tests of the importers.

    python tests/interop/elsewhere.py FOLDER

needs FIREASSAY_MACE_PYTHON, FIREASSAY_NEQUIP_PYTHON and FIREASSAY_NEQUIP06_PYTHON, trains one small model each and
writes their exports to FOLDER/NAME, which tests/interop/test_imported.py reads (tests/interop/exports). Training frames
are random clusters with the energies of a Lennard-Jones potential: what a network learns of them is of no importance.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ase import Atoms
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from fireassay.interop.ase import structure_of
from fireassay.interop.worker import WORKERS, _arrays

VARIABLES = {
    "mace": "FIREASSAY_MACE_PYTHON",
    "nequip": "FIREASSAY_NEQUIP_PYTHON",
    "nequip06": "FIREASSAY_NEQUIP06_PYTHON",
}


def clusters(n: int, seed: int = 0) -> list[Atoms]:
    """Clusters of eight atoms with energies and forces."""
    rng, out = np.random.default_rng(seed), []
    while len(out) < n:
        positions = rng.uniform(-2, 2, (8, 3))
        distances = np.linalg.norm(positions[:, None] - positions, axis=-1) + 9 * np.eye(8)
        if distances.min() > 1.0:
            atoms = Atoms(["H", "C", "O", "H", "C", "O", "H", "C"], positions)
            atoms.calc = LennardJones(epsilon=0.05, sigma=1.3, rc=5.0)
            labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
            atoms.calc = SinglePointCalculator(atoms, **labels)
            out.append(atoms)
    return out


def train_mace(python: str, folder: Path, dtype: str = "float64", **options: Any) -> Path:
    """The .model file that mace_run_train leaves after two epochs; options as on its command line, None for a flag."""
    frames = clusters(8)
    for atoms in frames:
        atoms.info["REF_energy"], atoms.arrays["REF_forces"] = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = None
    write(folder / "train.xyz", frames)
    given = {
        "name": "small",
        "train_file": "train.xyz",
        "valid_fraction": 0.25,
        "E0s": "{1: -3.5, 6: -30.0, 8: -70.5}",
        "max_num_epochs": 2,
        "batch_size": 2,
        "valid_batch_size": 2,
        "device": "cpu",
        "default_dtype": dtype,
        "seed": 1,
        "energy_key": "REF_energy",
        "forces_key": "REF_forces",
        "r_max": 4.0,
        "num_workers": 0,
        "hidden_irreps": "4x0e+4x1o",
        "max_ell": 2,
        "correlation": 2,
        "radial_MLP": "[8, 8]",
        **options,
    }
    words = [f"--{name}" if value is None else f"--{name}={value}" for name, value in given.items()]
    _called([python, "-m", "mace.cli.run_train", *words], folder)
    return folder / "small.model"


def train_nequip(python: str, folder: Path, dtype: str = "float32", **options: Any) -> Path:
    """The checkpoint that nequip-train >= 0.7 leaves after two epochs; options are those of NequIPGNNModel."""
    write(folder / "train.xyz", clusters(8), format="extxyz")
    names = ["H", "C", "O"]
    transforms = [
        {"_target_": "nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper", "model_type_names": names},
        {"_target_": "nequip.data.transforms.NeighborListTransform", "r_max": 4.0},
    ]
    loader = {"_target_": "torch.utils.data.DataLoader", "batch_size": 2, "num_workers": 0}
    coefficients = {"total_energy": 1.0, "forces": 1.0}
    metrics = {"_target_": "nequip.train.EnergyForceMetrics", "coeffs": {"total_energy_mae": 1.0, "forces_mae": 1.0}}
    model = {
        "_target_": "nequip.model.NequIPGNNModel",
        "seed": 1,
        "model_dtype": dtype,
        "type_names": names,
        "r_max": 4.0,
        "num_layers": 3,
        "l_max": 1,
        "num_features": 4,
        "radial_mlp_width": 8,
        "compile_mode": "eager",
        "avg_num_neighbors": 6.5,
        "per_type_energy_scales": {"H": 0.7, "C": 1.2, "O": 0.9},
        "per_type_energy_shifts": {"H": -3.5, "C": -30.0, "O": -70.5},
        **options,
    }
    config = {
        "run": ["train"],
        "data": {
            "_target_": "nequip.data.datamodule.ASEDataModule",
            "seed": 1,
            "split_dataset": {"file_path": str(folder / "train.xyz"), "train": 6, "val": 2},
            "transforms": transforms,
            "train_dataloader": loader,
            "val_dataloader": loader,
        },
        "trainer": {
            "_target_": "lightning.Trainer",
            "accelerator": "cpu",
            "max_epochs": 2,
            "logger": False,
            "enable_progress_bar": False,
            "callbacks": [
                {
                    "_target_": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "dirpath": str(folder),
                    "filename": "best",
                    "save_last": True,
                }
            ],
        },
        "training_module": {
            "_target_": "nequip.train.EMALightningModule",
            "loss": {"_target_": "nequip.train.EnergyForceLoss", "per_atom_energy": True, "coeffs": coefficients},
            "val_metrics": metrics,
            "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.01},
            "model": model,
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    train = str(Path(python).parent / "nequip-train")
    _called([train, "-cp", str(folder), "-cn", "config.yaml", f"hydra.run.dir={folder / 'hydra'}"], folder)
    return folder / "last.ckpt"


def train_nequip06(python: str, folder: Path, dtype: str = "float32", **options: Any) -> Path:
    """The weights that nequip-train 0.6 leaves after two epochs, in the folder of config.yaml, with its options."""
    write(folder / "train.xyz", clusters(8), format="extxyz")
    config = {
        "root": str(folder),
        "run_name": "run",
        "seed": 1,
        "dataset_seed": 2,
        "append": False,
        "wandb": False,
        "model_builders": [
            "SimpleIrrepsConfig",
            "EnergyModel",
            "PerSpeciesRescale",
            "StressForceOutput",
            "RescaleEnergyEtc",
        ],
        "r_max": 4.0,
        "num_layers": 3,
        "l_max": 1,
        "parity": True,
        "num_features": 4,
        "invariant_neurons": 8,
        "dataset": "ase",
        "dataset_file_name": str(folder / "train.xyz"),
        "ase_args": {"format": "extxyz"},
        "chemical_symbols": ["H", "C", "O"],
        "n_train": 6,
        "n_val": 2,
        "batch_size": 2,
        "max_epochs": 2,
        "loss_coeffs": "forces",
        "optimizer_name": "Adam",
        "default_dtype": "float64",
        "model_dtype": dtype,
        **options,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    _called([str(Path(python).parent / "nequip-train"), str(folder / "config.yaml")], folder)
    return folder / "run" / "best_model.pth"


def _called(command: list[str], folder: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]


TRAINERS = {"mace": train_mace, "nequip": train_nequip, "nequip06": train_nequip06}
RECORDED: dict[str, tuple[str, str, Mapping[str, Any]]] = {
    "mace_float64": ("mace", "export_mace.py", {"model": "MACE"}),
    "mace_density": (
        "mace",
        "export_mace.py",
        {
            "model": "ScaleShiftMACE",
            "dtype": "float32",
            "interaction_first": "RealAgnosticDensityInteractionBlock",
            "interaction": "RealAgnosticDensityResidualInteractionBlock",
            "distance_transform": "Agnesi",
            "pair_repulsion": None,
        },
    ),
    "nequip_zbl": (
        "nequip",
        "export_nequip.py",
        {
            "pair_potential": {
                "_target_": "nequip.nn.pair_potential.ZBL",
                "units": "metal",
                "chemical_species": ["H", "C", "O"],
            }
        },
    ),
    "nequip_sizes": (
        "nequip",
        "export_nequip.py",
        {
            "dtype": "float64",
            "l_max": 2,
            "parity": False,
            "num_features": [5, 4, 3],
            "type_embed_num_features": 3,
            "bessel_trainable": True,
            "avg_num_neighbors": {"H": 6.0, "C": 7.0, "O": 5.0},
            "per_edge_type_cutoff": {"H": 3.0, "C": {"H": 3.4, "C": 3.8, "O": 4.0}},
            "readout_mlp_hidden_layers_depth": 1,
            "readout_mlp_hidden_layers_width": 4,
        },
    ),
    "nequip06": ("nequip06", "export_nequip.py", {}),
}


def record(name: str, folder: Path) -> None:
    """Trains one model and writes its export, predictions on unseen clusters included."""
    kind, script, options = RECORDED[name]
    python, work = os.environ[VARIABLES[kind]], folder / f".{name}"
    work.mkdir(parents=True)
    file = TRAINERS[kind](python, work, **options)
    out = folder / name
    out.mkdir(exist_ok=True)
    frames = [structure_of(atoms) for atoms in clusters(2, seed=1)]
    np.savez(out / "frames.npz", **_arrays(frames))
    _called([python, "-I", str(WORKERS / script), str(file), str(out)], out)
    with np.load(out / "arrays.npz") as archive:
        np.savez_compressed(out / "arrays.npz", **dict(archive))
    (out / "frames.npz").unlink()


if __name__ == "__main__":
    for case in RECORDED:
        record(case, Path(sys.argv[1]))
