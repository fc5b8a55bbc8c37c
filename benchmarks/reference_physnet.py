"""The side of the public PhysNet code, TensorFlow in graph mode, in benchmarks/architectures.py.

The environment variable PHYSNET names a checkout of github.com/MMunibas/PhysNet. Its dropout, which draws random
numbers even where it keeps everything, is left out.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import record_physnet
from record_physnet import Public, mapped, randomise, tf
from side_by_side import SIZES, TASKS, serve

SYMBOLS = {1: "H", 6: "C", 7: "N", 8: "O", 29: "Cu"}


def main() -> None:
    """Writes the weights and serves the tasks of `side_by_side.TASKS`."""
    arguments = json.loads(Path(sys.argv[1]).read_text())
    record_physnet.load(os.environ["PHYSNET"])
    record_physnet.SPECIES = {SYMBOLS[z]: z for z in arguments["species"]}
    public = Public(arguments, "float32", int(os.environ["OMP_NUM_THREADS"]))
    values = randomise(public.weights(), arguments["trainable_dispersion"])
    public.assign(values)
    np.savez(sys.argv[2], **{name: value.astype(np.float32) for name, value in mapped(values, arguments).items()})
    frames = ase.io.read(sys.argv[3], ":")
    feeds = {task: public.feed(frames[SIZES[task]]) for task in TASKS}
    steps = []  # the operation of a training step, made when it is asked for

    def energy_and_forces(task: str) -> float:
        return float(np.abs(public.session.run([public.energy, public.forces], feeds[task])[1]).sum())

    def train(task: str) -> float:
        if not steps:
            steps.append(training_step(public))
            public.assign(values)
        forces = public.session.run([steps[0], public.forces], feeds[task])[1]
        return float(np.square(forces).mean())

    serve({task: lambda task=task: (train if "training" in task else energy_and_forces)(task) for task in TASKS})


def training_step(public: Public) -> Any:
    """A step of Adam on a loss of energies and forces; initialises all variables anew."""
    with public.graph.as_default():
        loss = tf.reduce_mean(public.energy**2) + tf.reduce_mean(public.forces**2)
        step = tf.train.AdamOptimizer(0.0).minimize(loss, var_list=list(public.variables.values()))
        public.session.run(tf.global_variables_initializer())
    return step


main()
