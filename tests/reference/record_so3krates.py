"""Records what the public repository mlff (github.com/thorben-frank/mlff, commit 02107c2) predicts, with its weights.

    PYTHONPATH=MLFF PYTHON_WITH_JAX tests/reference/record_so3krates.py tests/reference

needs jax 0.4.30 and flax 0.8.5 beside a checkout of mlff. Writes so3krates_CASE.npz (weights under our names,
structures, energies in eV relative to isolated atoms, forces in eV/Å) and so3krates_CASE.json. Weights are float32
values, so that both precisions share them. Biases, zero at first, are drawn at random, so that they count.

Two things of mlff are set right here: it loads the tables of another model of its own, which a checkout may lack, and
its update block holds the factors 1 / sqrt(2l + 1) in float32 whatever the precision asked for.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax

jax.config.update("jax_enable_x64", True)

import flax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import pkg_resources  # noqa: E402
from ase import Atoms  # noqa: E402
from recording import SEED, edges, structures, write  # noqa: E402

_stream = pkg_resources.resource_stream
pkg_resources.resource_stream = lambda where, name: (
    io.BytesIO(pickle.dumps({})) if name == "u_matrix.pickle" else _stream(where, name)
)

from mlff.nn import So3krates  # noqa: E402
from mlff.nn.layer import so3krates_layer  # noqa: E402
from mlff.properties import md17_property_keys  # noqa: E402

_contraction = so3krates_layer.make_l0_contraction_fn
so3krates_layer.make_l0_contraction_fn = lambda degrees, dtype=jnp.float64: (
    lambda chi: _contraction(degrees, chi.dtype)(chi)
)

COMMIT = "02107c2"
SPECIES = {"H": 1, "C": 6, "O": 8}
KEYS = dict(md17_property_keys, unit_cell="unit_cell", cell_offset="cell_offset")
CASES: dict[str, dict[str, Any]] = {
    "paper": {
        "cutoff": 4.0,
        "n_layers": 3,
        "degrees": [1, 2, 3],
        "channels": 24,
        "n_heads": 4,
        "n_basis": 16,
        "envelope_p": None,
        "radial_hidden": [24],
        "spherical_hidden": [6],
        "residual_attention": False,
        "residual_update": False,
        "layer_norm": False,
        "initial_chi": "zeros",
        "readout_hidden": [24],
        "average_neighbours": 10.0,
    },
    "tea": {
        "cutoff": 4.2,
        "n_layers": 2,
        "degrees": [1, 2, 3, 4],
        "channels": 20,
        "n_heads": 2,
        "n_basis": 12,
        "envelope_p": None,
        "radial_hidden": [20],
        "spherical_hidden": [5],
        "residual_attention": True,
        "residual_update": True,
        "layer_norm": False,
        "initial_chi": "zeros",
        "readout_hidden": [20],
        "average_neighbours": 10.0,
    },
    "neighbours_norm": {
        "cutoff": 3.8,
        "n_layers": 2,
        "degrees": [1, 3],
        "channels": 16,
        "n_heads": 4,
        "n_basis": 10,
        "envelope_p": 3,
        "radial_hidden": [12, 10],
        "spherical_hidden": [7],
        "residual_attention": False,
        "residual_update": True,
        "layer_norm": True,
        "initial_chi": "neighbours",
        "readout_hidden": [16],
        "average_neighbours": 8.5,
    },
}
# Its energies are a tenth of the isolated atoms' that float32 takes off, so mlff's own rounding shows.
NOTES: dict[str, dict[str, Any]] = {"neighbours_norm": {"rtol": {"float32": 5e-5}}}
ENVELOPES = {None: "cosine_cutoff_fn", 3: "phys_cutoff_fn", 6: "dimenet_cutoff_fn"}


def build(case: Mapping[str, Any]) -> Any:
    """The public network with the arguments of ours."""
    channels = case["channels"]
    radial, spherical = [*case["radial_hidden"], channels], [*case["spherical_hidden"], channels]
    layer = {
        "degrees": case["degrees"],
        "n_heads": case["n_heads"],
        "fb_rad_filter_features": radial,
        "gb_rad_filter_features": radial,
        "fb_sph_filter_features": spherical,
        "gb_sph_filter_features": spherical,
        "residual_mlp_1": case["residual_attention"],
        "residual_mlp_2": case["residual_update"],
        "layer_normalization": case["layer_norm"],
    }
    geometry = {
        "degrees": case["degrees"],
        "n_rbf": case["n_basis"],
        "r_cut": case["cutoff"],
        "radial_cutoff_fn": ENVELOPES[case["envelope_p"]],
        "sphc_normalization": case["average_neighbours"] if case["initial_chi"] == "neighbours" else None,
        "mic": True,
    }
    return So3krates(
        prop_keys=KEYS,
        F=channels,
        n_layer=case["n_layers"],
        so3krates_layer_kwargs=layer,
        geometry_embed_kwargs=geometry,
    )


def inputs(atoms: Atoms, cutoff: float, dtype: Any) -> dict[str, Any]:
    """What the public network takes of a structure; one edge of no atoms stands for none."""
    found = edges(atoms, cutoff)
    i, j, shift = found["i"], found["j"], found["shift"]
    if not len(i):
        i, j, shift = np.array([-1]), np.array([-1]), np.zeros((1, 3))
    return {
        KEYS["atomic_position"]: jnp.asarray(atoms.positions, dtype),
        KEYS["atomic_type"]: jnp.asarray(atoms.numbers),
        "idx_i": jnp.asarray(i),
        "idx_j": jnp.asarray(j),
        KEYS["unit_cell"]: jnp.asarray(atoms.cell.array, dtype),
        KEYS["cell_offset"]: jnp.asarray(shift, dtype),
    }


def initial(network: Any, case: Mapping[str, Any], randomised: bool = True) -> Any:
    """Parameters as float32 values; if `randomised`, larger, and with random biases and norms."""
    atoms = structures(list(SPECIES))["molecule"]
    parameters = jax.jit(network.init)(jax.random.PRNGKey(SEED), inputs(atoms, case["cutoff"], jnp.float32))
    rng = np.random.default_rng(SEED)

    def value(path: Any, array: Any) -> Any:
        factor, width = {"bias": (1, 0.2), "scale": (1, 0.2), "embedding": (2, 0), "kernel": (1.1, 0)}[path[-1].key]
        moved = factor * array + width * rng.normal(size=array.shape) if randomised else array
        return jnp.asarray(moved, jnp.float32)

    return jax.tree_util.tree_map_with_path(value, {"params": parameters["params"]})


def weights(parameters: Any, case: Mapping[str, Any], species: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The parameters of our SO3krates from those of mlff's; the readout's last bias cancels."""
    tree = jax.tree_util.tree_map(np.asarray, parameters["params"])
    embedding = next(tree[name] for name in tree if name.startswith("feature_embeddings"))
    out = {"embedding": embedding["Embed_0"]["embedding"][list(species.values())]}

    def network(target: str, source: Mapping[str, Any], pick: Callable[[np.ndarray], np.ndarray] = lambda a: a) -> None:
        for k in range(len(source)):
            dense = source[f"layers_{k}"]
            out[f"{target}.{2 * k}.weight"], out[f"{target}.{2 * k}.bias"] = (
                pick(dense["kernel"]).T,
                pick(dense["bias"]),
            )

    for number in range(case["n_layers"]):
        layer, name = tree[f"layers_{number}"], f"layers.{number}"
        blocks = {"features": layer["FeatureBlock_0"], "geometry": layer["GeometricBlock_0"]}
        for target, block in blocks.items():
            radial, spherical = (block["filter_fn"][key] for key in ("VmapMLP_0", "VmapMLP_1"))
            network(f"{name}.{target}.radial", radial, lambda a: a[0])
            network(f"{name}.{target}.spherical", spherical, lambda a: a[0])
            attention = block["attention_fn"]
            heads = attention["VmapConvAttentionCoefficients_0"]
            projections = [heads["Dense_0"]["kernel"], heads["Dense_1"]["kernel"]]
            if target == "features":
                projections.append(attention["VmapAttentionAggregation_0"]["Dense_0"]["kernel"])
            out[f"{name}.{target}.projections"] = np.concatenate(projections, 2)
        update = layer["InteractionBlock_0"]["MLP_0"]["layers_0"]
        out[f"{name}.update.weight"], out[f"{name}.update.bias"] = update["kernel"].T, update["bias"]
        if case["layer_norm"]:
            for k in (0, 1):
                norm = layer[f"LayerNorm_{k}"]
                out[f"{name}.norm_{k + 1}.weight"], out[f"{name}.norm_{k + 1}.bias"] = norm["scale"], norm["bias"]
        present = [k for k, key in ((1, "residual_attention"), (2, "residual_update")) if case[key]]
        for place, k in enumerate(present):
            residual = layer[f"ResidualMLP_{place}"]
            inner = residual["Residual_0"]
            for index, dense in enumerate((inner["layers_0"], inner["layers_1"], residual["Dense_0"])):
                out[f"{name}.residual_{k}.layers.{index}.weight"] = dense["kernel"].T
    network("readout", tree["observables_0"]["MLP_0"])
    del out[f"readout.{2 * len(case['readout_hidden'])}.bias"]
    out = {key: np.ascontiguousarray(value, np.float32) for key, value in out.items()}
    end, n_basis = np.exp(-case["cutoff"]), case["n_basis"]  # mlff computes these in the precision of the distances
    basis = {"means": np.linspace(end, 1, n_basis), "widths": np.full(n_basis, (2 / n_basis * (1 - end)) ** -2)}
    return {**out, **{f"basis.{key}": value for key, value in basis.items()}}


def evaluate(network: Any, parameters: Any, cutoff: float, dtype: Any, atoms: Atoms) -> tuple[float, np.ndarray]:
    """Energy relative to isolated atoms, and forces."""
    cast = jax.tree_util.tree_map(lambda a: a.astype(dtype), parameters)
    position = KEYS["atomic_position"]

    def energy(given: dict[str, Any]) -> Any:
        return network.apply(cast, given)[KEYS["energy"]].sum()

    given = inputs(atoms, cutoff, dtype)
    value, gradient = jax.jit(jax.value_and_grad(lambda x: energy({**given, position: x})))(given[position])
    alone = jax.jit(energy)
    isolated = sum(alone(inputs(Atoms([z], [[0.0, 0, 0]]), cutoff, dtype)) for z in atoms.numbers)
    assert value.dtype == dtype
    return float(value) - float(isolated), -np.asarray(gradient)


def main() -> None:
    folder = Path(sys.argv[1])
    versions = {"mlff": f"0.3.0, commit {COMMIT}", "jax": jax.__version__, "flax": flax.__version__}
    for name, case in CASES.items():
        network = build(case)
        parameters = initial(network, case)
        sides = {
            kind: partial(evaluate, network, parameters, case["cutoff"], dtype)
            for kind, dtype in (("float64", jnp.float64), ("float32", jnp.float32))
        }
        write(
            folder,
            f"so3krates_{name}",
            "so3krates",
            {"species": list(SPECIES.values()), **case},
            weights(parameters, case, SPECIES),
            sides,
            structures(list(SPECIES)),
            versions,
            **NOTES.get(name, {}),
        )


if __name__ == "__main__":
    main()
