"""LTAU's share of a force evaluation at 13 500 training atoms (500 frames of 3BPA).

    python benchmarks/ltau.py [--models mace-32 mace-64 nequip] [--threads 2] [--counts 1 10]

Per model and number of frames in the batch: the force evaluation, which brings the descriptors with it, of the model
and of its frozen equivalent; LTAU's expected error by each search; and the full distributions. Descriptors are those of
untrained weights, whose clusters (27 environments) are those of the molecule. Microseconds per atom, medians; the share
is that of the exact search in the frozen force evaluation. Recall is that of hnsw.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import faiss
import numba
import numpy as np
import torch

from architectures import ARGUMENTS
from fireassay.assays.predictions import predict
from fireassay.data.datasets import Dataset
from fireassay.data.readers import read
from fireassay.data.structure import Structure
from fireassay.models.mace import MACE
from fireassay.models.nequip import NequIP
from fireassay.potential import LocalPotential
from fireassay.progress import Silent
from fireassay.records import ErrorTrajectory
from fireassay.uncertainty.ltau import LTAU

SPECIES = [1, 6, 7, 8]
MODELS: dict[str, Callable[[], LocalPotential]] = {
    "mace-32": lambda: MACE(SPECIES, cutoff=5.0, channels=32, hidden_l_max=1),
    "mace-64": lambda: MACE(SPECIES, cutoff=5.0, channels=64, hidden_l_max=2),
    "nequip": lambda: NequIP(**ARGUMENTS["nequip"]),
}


def median_of(work: Callable[[], Any], repeats: int) -> float:
    """Median seconds of `work`, once done before."""
    work()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def fitted(descriptors: np.ndarray, sizes: np.ndarray) -> dict[str, LTAU]:
    """One LTAU per search, on pretended errors of 50 epochs."""
    rng = np.random.default_rng(0)
    log = ErrorTrajectory.empty(sizes)
    for _ in range(50):
        log.add(np.arange(len(descriptors)), 0.03 * np.exp(rng.normal(size=len(descriptors))))
    return {kind: LTAU(index=kind).fit(descriptors, log) for kind in ("exact", "flat", "hnsw")}


def measure(name: str, train: list[Structure], test: list[Structure], counts: list[int], repeats: int) -> None:
    """Prints one row per batch size."""
    potential = MODELS[name]().float()
    known = predict(potential, Dataset(train, potential.cutoff), forces=False, descriptors=True, progress=Silent())
    assert known.descriptors is not None
    models = fitted(known.descriptors, np.array([len(s) for s in train]))
    frozen = potential.frozen()
    for count in counts:
        batch = Dataset(test[:count], potential.cutoff).select(range(count), torch.float32)
        found = frozen.predict(batch.graph).descriptors
        assert found is not None
        atoms, queries = len(found), found.numpy()
        scale = 1e6 / atoms
        trained = median_of(lambda b=batch: potential.predict(b.graph), repeats) * scale
        force = median_of(lambda b=batch: frozen.predict(b.graph), repeats) * scale
        search = {
            kind: median_of(lambda m=m, q=queries: m.expected_error(q), 5 * repeats) * scale
            for kind, m in models.items()
        }
        whole = median_of(lambda q=queries: models["exact"].predict(q), 5 * repeats) * scale
        true, near = models["flat"].neighbours(queries)[1], models["hnsw"].neighbours(queries)[1]
        recall = np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(true.tolist(), near.tolist(), strict=True)])
        print(
            f"| {name} | {queries.shape[1]} | {count} | {trained:.1f} | {force:.1f} | {search['exact']:.2f} "
            f"| {search['flat']:.2f} | {search['hnsw']:.2f} ({recall:.3f}) | {whole:.2f} "
            f"| {100 * search['exact'] / force:.1f} % |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--train", default="3bpa-xtb/train_300K")
    parser.add_argument("--test", default="3bpa-xtb/test_300K")
    parser.add_argument("--counts", nargs="+", type=int, default=[1, 10])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    numba.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    train, test = read(options.train), read(options.test)
    print("| model | D | frames | forces | frozen | exact | flat | hnsw (recall) | distributions | share |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in options.models:
        measure(name, train, test, options.counts, options.repeats)


if __name__ == "__main__":
    main()
