"""Neighbour lists and batches: what building a data set, cutting a batch and rebuilding a list in MD cost.

    python benchmarks/neighbours.py [--threads 2] [--repeats 20]

Molecules of 27 atoms and random boxes of 192 atoms at the density of water, cutoff 5 Å, float64. The peers are ASE's
own list and vesin one structure at a time. Prints least and median wall times in milliseconds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import ase.neighborlist
import numpy as np
import torch
from ase import Atoms

from fireassay.data.datasets import Dataset
from fireassay.data.graph import from_structures
from fireassay.data.neighbours import batched_neighbour_list, binned_neighbour_list, neighbour_list
from fireassay.data.structure import Structure

CUTOFF = 5.0


def milliseconds(function: Callable[[], object], repeats: int) -> str:
    """Least and median time of a call."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - start))
    return f"{min(times):9.3f} {statistics.median(times):9.3f}"


def molecules(count: int) -> list[Structure]:
    """27 atoms at the vertices of a jittered 3 x 3 x 3 grid, 1.7 Å apart: about as dense as 3BPA."""
    rng = np.random.default_rng(0)
    grid = 1.7 * np.stack(np.meshgrid(*[np.arange(3)] * 3), -1).reshape(-1, 3)
    return [Structure(np.full(27, 6), grid + 0.2 * rng.normal(size=(27, 3))) for _ in range(count)]


def boxes(count: int, atoms: int = 192) -> list[Structure]:
    """Random points in a cube, 0.1 atoms/Å^3, periodic."""
    rng = np.random.default_rng(1)
    edge = (atoms / 0.1) ** (1 / 3)
    cell, pbc = np.eye(3) * edge, np.ones(3, dtype=bool)
    return [Structure(np.full(atoms, 8), rng.uniform(0, edge, (atoms, 3)), cell, pbc) for _ in range(count)]


def with_ase(structures: list[Structure]) -> None:
    """ASE's list of every structure."""
    for s in structures:
        ase.neighborlist.neighbor_list("ijS", Atoms(s.atomic_numbers, s.positions, cell=s.cell, pbc=s.pbc), CUTOFF)


def main() -> None:
    """Times everything and prints one line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{'':44s}{'least':>9s} {'median':>9s}  ms, {options.threads} threads")
    for name, structures in (("30 molecules of 27", molecules(30)), ("10 boxes of 192", boxes(10))):
        graph = from_structures(structures, CUTOFF)
        batch = (graph.positions, graph.cell, graph.pbc, graph.structure)
        cases: dict[str, Callable[[], object]] = {
            f"{name}: batched": lambda batch=batch: batched_neighbour_list(*batch, CUTOFF),
            f"{name}: bins in torch": lambda batch=batch: binned_neighbour_list(*batch, CUTOFF),
            f"{name}: vesin one by one": lambda s=structures: [neighbour_list(one, CUTOFF) for one in s],
            f"{name}: ASE one by one": lambda s=structures: with_ase(s),
        }
        for label, function in cases.items():
            print(f"{label:44s}{milliseconds(function, options.repeats)}", flush=True)
    many = molecules(2000)
    print(f"{'data set of 2000 molecules, built':44s}{milliseconds(lambda: Dataset(many, CUTOFF), 3)}", flush=True)
    dataset = Dataset(many, CUTOFF)
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
    for size in (1, 5, 10, 100):
        label = f"select {size} of 2000, float32"
        chosen = order[:size]
        print(
            f"{label:44s}{milliseconds(lambda c=chosen: dataset.select(c, torch.float32), options.repeats)}", flush=True
        )
        label = f"the same from structures, size {size}"
        structures = [many[k] for k in chosen.tolist()]
        print(
            f"{label:44s}{milliseconds(lambda s=structures: from_structures(s, CUTOFF), options.repeats)}", flush=True
        )
    memory = sum(t.nbytes for t in vars(dataset).values() if isinstance(t, torch.Tensor))
    print(f"{'packed tensors':44s}{memory / 2**20:9.1f} MiB for {dataset.n_edges} edges")


if __name__ == "__main__":
    main()
