"""Records what the public PhysNet code predicts, with its weights under our names.

    PYTHON_WITH_TENSORFLOW tests/reference/record_physnet.py tests/reference CHECKOUT

CHECKOUT is github.com/MMunibas/PhysNet at the commit named below. Writes physnet_CASE.npz (weights, structures,
energies in eV, forces in eV/Å) and physnet_CASE.json (versions, seed, arguments).

The code is of TensorFlow 1: it runs under TensorFlow 2 as `tensorflow.compat.v1`, without its dropout, which keeps
everything by default and knows one precision. Two constants that it makes in single precision are made in double where
that is asked: its radial layer takes the dtype, and ln 2 of the activation is a Python number. The arithmetic is
untouched.

Its long-range terms end at lr_cut as ours do, and it is given the edges of both ranges. "total" is the whole model with
its conservation of the charges, "free" the whole model on the charges as they are, "network" the network alone.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow
from ase import Atoms
from recording import SEED, edges, structures, write

tf = tensorflow.compat.v1
tf.disable_eager_execution()
COMMIT = "e243e2c383b4ac0a9d7062e654b9b4feb76ca859"
D3 = ("s6", "s8", "a1", "a2")
SPECIES = {"H": 1, "C": 6, "O": 8}
COEFFICIENTS = [1.0, 0.9171, 0.3385, 2.8830]
CASES: dict[str, dict[str, Any]] = {
    "total": {
        "cutoff": 5.0,
        "short_cutoff": 4.0,
        "n_layers": 2,
        "channels": 10,
        "n_basis": 12,
        "residual_atomic": 2,
        "residual_interaction": 3,
        "residual_output": 1,
        "electrostatics": True,
        "charge_conservation": "total",
        "total_charge": -1.0,
        "dispersion": True,
        "dispersion_coefficients": COEFFICIENTS,
        "trainable_dispersion": True,
    },
    "free": {
        "cutoff": 4.5,
        "short_cutoff": None,
        "n_layers": 3,
        "channels": 8,
        "n_basis": 10,
        "residual_atomic": 1,
        "residual_interaction": 1,
        "residual_output": 2,
        "electrostatics": True,
        "charge_conservation": "none",
        "total_charge": 0.0,
        "dispersion": True,
        "dispersion_coefficients": [0.5, 0.2130, 0.0, 6.0519],
        "trainable_dispersion": False,
    },
    "network": {
        "cutoff": 4.2,
        "short_cutoff": None,
        "n_layers": 2,
        "channels": 12,
        "n_basis": 16,
        "residual_atomic": 2,
        "residual_interaction": 2,
        "residual_output": 1,
        "electrostatics": False,
        "charge_conservation": "none",
        "total_charge": 0.0,
        "dispersion": False,
        "dispersion_coefficients": COEFFICIENTS,
        "trainable_dispersion": True,
    },
}


class Public:
    """The public network in a session of its own, in one precision, on placeholders for any batch."""

    def __init__(self, case: dict[str, Any], dtype: str, threads: int = 1) -> None:
        import neural_network.NeuralNetwork as code

        self.case, self.dtype = case, getattr(tf, dtype)
        given = case["dispersion_coefficients"] if not case["trainable_dispersion"] else [None] * 4
        layer = code.RBFLayer
        code.RBFLayer = partial(layer, dtype=self.dtype)
        self.graph = tf.Graph()
        with self.graph.as_default():
            self.network = code.NeuralNetwork(
                F=case["channels"],
                K=case["n_basis"],
                sr_cut=case["short_cutoff"] or case["cutoff"],
                lr_cut=case["cutoff"],
                num_blocks=case["n_layers"],
                num_residual_atomic=case["residual_atomic"],
                num_residual_interaction=case["residual_interaction"],
                num_residual_output=case["residual_output"],
                use_electrostatic=case["electrostatics"],
                use_dispersion=case["dispersion"],
                **dict(zip(D3, given, strict=True)),
                activation_fn=shifted_softplus,
                dtype=self.dtype,
                seed=SEED,
                scope="physnet",
            )
            self._build()
            self.variables = {name.removesuffix(":0"): value for name, value in self.network.variables.items()}
            config = tf.ConfigProto(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=1)
            self.session = tf.Session(config=config)
            self.session.run(tf.global_variables_initializer())
        code.RBFLayer = layer

    def _build(self) -> None:
        integers = ("Z", "idx_i", "idx_j", "sr_idx_i", "sr_idx_j", "batch_seg")
        vectors = ("R", "offsets", "sr_offsets")
        self.inputs = {name: tf.placeholder(tf.int32, [None], name=name) for name in integers}
        self.inputs |= {name: tf.placeholder(self.dtype, [None, 3], name=name) for name in vectors}
        x, nn = self.inputs, self.network
        long, short = ("idx_i", "idx_j", "offsets"), ("sr_idx_i", "sr_idx_j", "sr_offsets")
        atoms = nn.atomic_properties(x["Z"], x["R"], *(x[name] for name in (*long, *short)))
        energies, self.charges, distances, _ = atoms
        if self.case["charge_conservation"] == "total":
            total = tf.cast(tf.fill([tf.reduce_max(x["batch_seg"]) + 1], self.case["total_charge"]), self.dtype)
            self.charges = nn.scaled_charges(x["Z"], self.charges, total, x["batch_seg"])
        self.energy, self.forces = nn.energy_and_forces_from_scaled_atomic_properties(
            energies, self.charges, distances, x["Z"], x["R"], x["idx_i"], x["idx_j"], x["batch_seg"]
        )

    def feed(self, structures: list[Atoms], beyond: float = 0.0) -> dict[Any, np.ndarray]:
        """The inputs of a batch, its edges by centre; image atoms by their offsets, as in the public calculator.

        The edges reach `beyond` Å past the cutoffs, where every interaction is zero.
        """
        columns: dict[str, list[np.ndarray]] = {name: [] for name in self.inputs}
        start = 0
        for number, atoms in enumerate(structures):
            columns["Z"].append(atoms.numbers)
            columns["R"].append(atoms.positions)
            columns["batch_seg"].append(np.full(len(atoms), number))
            for prefix, cutoff in (
                ("", self.case["cutoff"]),
                ("sr_", self.case["short_cutoff"] or self.case["cutoff"]),
            ):
                found = edges(atoms, cutoff + beyond)
                order = np.argsort(found["i"], kind="stable")
                columns[f"{prefix}idx_i"].append(found["i"][order] + start)
                columns[f"{prefix}idx_j"].append(found["j"][order] + start)
                columns[f"{prefix}offsets"].append(found["shift"][order] @ atoms.cell.array)
            start += len(atoms)
        return {self.inputs[name]: np.concatenate(parts) for name, parts in columns.items()}

    def predict(self, atoms: Atoms) -> tuple[float, np.ndarray]:
        """The energy relative to isolated atoms, and the forces."""
        energy, forces = self.session.run([self.energy, self.forces], self.feed([atoms]))
        return float(energy) - self.isolated(atoms), forces

    def isolated(self, atoms: Atoms) -> float:
        """The energies of the atoms without neighbours, half of those of two out of each other's reach: the public
        sums need an edge for every atom."""
        apart = self.case["cutoff"] + 0.5
        twos = [Atoms([symbol] * 2, [[0, 0, 0], [apart, 0, 0]]) for symbol in SPECIES]
        energies = self.session.run(self.energy, self.feed(twos, 1 + apart)) / 2
        return float(sum(energies[list(SPECIES.values()).index(z)] for z in atoms.numbers))

    def weights(self) -> dict[str, np.ndarray]:
        return self.session.run(self.variables)

    def assign(self, values: dict[str, np.ndarray]) -> None:
        with self.graph.as_default():
            for name, variable in self.variables.items():
                variable.load(values[name], self.session)


def shifted_softplus(x: Any) -> Any:
    """The public code's activation with a constant of any dtype."""
    return tf.nn.softplus(x) - float(np.log(2.0))


def randomise(values: dict[str, np.ndarray], learned: bool) -> dict[str, np.ndarray]:
    """New matrices, and every other weight moved, all float32 values: those that are zero at first, the biases, scales
    and centres too; the coefficients of D3 if they are learned."""
    rng = np.random.default_rng(SEED)
    out = {}
    for name, value in sorted(values.items()):
        size = 0.02 if "rbf_layer" in name or name in D3 else 0.1
        matrix = value.ndim == 2 and name.endswith("/W")
        moved = rng.normal(size=value.shape) * (value.shape[0] ** -0.5 if matrix else size) + (0 if matrix else value)
        out[name] = value if name in D3 and not learned else moved.astype(np.float32).astype(np.float64)
    return out


def softplus(x: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)


def mapped(values: dict[str, np.ndarray], case: dict[str, Any]) -> dict[str, np.ndarray]:
    """The parameters of our PhysNet from the variables of the public one, which has rows for 95 elements."""
    rows = list(SPECIES.values())
    out = {
        "embedding": values["embeddings"][rows],
        "energy_scale": values["Escale"][rows],
        "basis.functions.means": softplus(values["rbf_layer/centers"]),
        "basis.functions.widths": softplus(values["rbf_layer/widths"]),
    }
    if case["electrostatics"]:
        out |= {"charge_scale": values["Qscale"][rows], "charge_shift": values["Qshift"][rows]}
    if case["dispersion"] and case["trainable_dispersion"]:
        out["dispersion.raw"] = np.array([values[name] for name in D3])

    def linear(ours: str, theirs: str, bias: bool = True) -> None:
        out[f"{ours}.weight"] = values[f"{theirs}/W"].T
        if bias:
            out[f"{ours}.bias"] = values[f"{theirs}/b"]

    for layer in range(case["n_layers"]):
        ours, block, last = f"layers.{layer}", f"interaction_block{layer}", f"output_block{layer}"
        message = f"{block}/interaction_layer"
        linear(f"{ours}.mask", f"{message}/k2f", False)
        for name, theirs in (("own", "dense_i"), ("neighbours", "dense_j"), ("update", "dense")):
            linear(f"{ours}.{name}", f"{message}/{theirs}")
        out[f"{ours}.gate"] = values[f"{message}/u"]
        linear(f"{ours}.output", f"{last}/dense_layer", False)
        if not case["electrostatics"]:
            out[f"{ours}.output.weight"] = out[f"{ours}.output.weight"][:1]
        chains = (("of_message", message, "interaction"), ("of_atom", block, "atomic"), ("of_output", last, "output"))
        for name, theirs, kind in chains:
            for k in range(case[f"residual_{kind}"]):
                linear(f"{ours}.{name}.{k}.first", f"{theirs}/residual_layer{k}/dense")
                linear(f"{ours}.{name}.{k}.second", f"{theirs}/residual_layer{k}/residual")
    return out


def record(name: str, case: dict[str, Any], folder: Path) -> None:
    both = {dtype: Public(case, dtype) for dtype in ("float64", "float32")}
    values = randomise(both["float64"].weights(), case["trainable_dispersion"])
    for public in both.values():
        public.assign(values)
    versions = {"PhysNet": COMMIT, "tensorflow": tensorflow.__version__, "numpy": np.__version__}
    evaluate = {dtype: public.predict for dtype, public in both.items()}
    arguments = {"species": list(SPECIES.values()), **case}
    write(
        folder,
        f"physnet_{name}",
        "physnet",
        arguments,
        mapped(values, case),
        evaluate,
        structures(list(SPECIES)),
        versions,
    )


def load(checkout: str) -> None:
    """Makes the public code importable."""
    sys.modules["tensorflow"] = tf
    tf.nn.dropout = lambda x, keep_prob: x
    sys.path.insert(0, checkout)


if __name__ == "__main__":
    load(sys.argv[2])
    for label, settings in CASES.items():
        record(label, settings, Path(sys.argv[1]))
