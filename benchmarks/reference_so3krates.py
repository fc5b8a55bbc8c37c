"""The side of mlff (jax, compiled) in benchmarks/architectures.py; the interpreter finds a checkout of mlff.

Structures are batched as mlff trains: padded to one size and mapped over. jax spreads over all cores, so that with one
thread asked for it is told to stay on one.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if os.environ.get("OMP_NUM_THREADS") == "1":
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import ase.io
import jax
import jax.numpy as jnp
import numpy as np
import optax
import record_so3krates as record
from ase import Atoms
from side_by_side import SIZES, TASKS, serve

jax.config.update("jax_enable_x64", False)  # the recording's, for float64
SYMBOLS = {1: "H", 6: "C", 7: "N", 8: "O", 29: "Cu"}


def batch(frames: Sequence[Atoms], cutoff: float) -> dict[str, Any]:
    """Inputs of mlff, padded to the largest number of pairs and stacked; all frames have one number of atoms."""
    each = [record.inputs(atoms, cutoff, jnp.float32) for atoms in frames]
    n_pairs = max(len(given["idx_i"]) for given in each)
    fill = {"idx_i": -1, "idx_j": -1, record.KEYS["cell_offset"]: 0}

    def padded(name: str, value: Any) -> Any:
        if name not in fill:
            return value
        spare = [(0, n_pairs - len(value))] + [(0, 0)] * (value.ndim - 1)
        return jnp.pad(value, spare, constant_values=fill[name])

    return {name: jnp.stack([padded(name, given[name]) for given in each]) for name in each[0]}


def main() -> None:
    arguments, weights, frames = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), sys.argv[3]
    species = {SYMBOLS[z]: z for z in arguments["species"]}
    network = record.build(arguments)
    parameters = record.initial(network, arguments, randomised=False)
    np.savez(weights, **record.weights(parameters, arguments, species))
    read = ase.io.read(frames, ":")
    assert isinstance(read, list)
    batches = {task: batch(read[SIZES[task]], arguments["cutoff"]) for task in TASKS}
    position, energy_key = record.KEYS["atomic_position"], record.KEYS["energy"]

    def one(given_parameters: Any, given: dict[str, Any]) -> tuple[Any, Any]:
        def energy(x: Any) -> Any:
            return network.apply(given_parameters, {**given, position: x})[energy_key].sum()

        value, gradient = jax.value_and_grad(energy)(given[position])
        return value, -gradient

    many = jax.vmap(one, in_axes=(None, 0))
    optimiser = optax.adam(0.0)
    state: list[Any] = [parameters, optimiser.init(parameters)]

    @jax.jit
    def predict(given_parameters: Any, given: dict[str, Any]) -> tuple[Any, Any]:
        return many(given_parameters, given)

    @jax.jit
    def step(given_parameters: Any, memory: Any, given: dict[str, Any]) -> tuple[Any, Any, Any]:
        def loss(p: Any) -> tuple[Any, Any]:
            energies, forces = many(p, given)
            return jnp.square(energies).mean() + jnp.square(forces).mean(), jnp.square(forces).mean()

        gradient, value = jax.grad(loss, has_aux=True)(given_parameters)
        updates, memory = optimiser.update(gradient, memory)
        return optax.apply_updates(given_parameters, updates), memory, value

    def energy_and_forces(task: str) -> float:
        return float(jnp.abs(predict(state[0], batches[task])[1]).sum())

    def train(task: str) -> float:
        state[0], state[1], value = step(state[0], state[1], batches[task])
        return float(value)

    serve({task: lambda task=task: (train if "training" in task else energy_and_forces)(task) for task in TASKS})


if __name__ == "__main__":
    main()
