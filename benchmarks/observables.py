"""Radial distributions, angles, displacements and velocity correlations: fireassay and public packages, in one run.

    python benchmarks/observables.py [--frames 200] [--atoms 1000] [--repeats 3] [--public PYTHON]

PYTHON is an interpreter with freud-analysis, MDAnalysis and tidynamics, without which they are left out. One random
trajectory of a liquid's density; printed are medians of seconds, alternating between the packages, and how far the
results are apart (public packages compute distances in float32).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fireassay.observables.angles import count_angles
from fireassay.observables.motion import squared_displacements, velocity_autocorrelation
from fireassay.observables.pairs import count_pairs

REACH, BINS = 10.0, 200
PUBLIC = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import numpy as np
what, path, side, threads = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
x = np.load(path)
def timed(call):
    began = time.perf_counter()
    found = call()
    return time.perf_counter() - began, np.asarray(found, dtype=float).ravel()[:500].tolist()
if what.startswith("freud"):
    import freud
    freud.parallel.set_num_threads(threads)
    box = freud.box.Box.cube(side)
    def rdf():
        found = freud.density.RDF(bins=200, r_max=10.0)
        for frame in x:
            found.compute((box, box.wrap(frame)), reset=False)
        return found.rdf
    def msd():
        return freud.msd.MSD(mode="window").compute(x).msd[: len(x) // 2 + 1]
    print(json.dumps(timed(rdf if what == "freud rdf" else msd)))
elif what == "MDAnalysis rdf":
    import MDAnalysis
    from MDAnalysis.analysis.rdf import InterRDF
    universe = MDAnalysis.Universe.empty(x.shape[1], trajectory=True)
    universe.load_new(x.astype(np.float32), dimensions=np.array([side, side, side, 90, 90, 90]))
    rdf = InterRDF(universe.atoms, universe.atoms, nbins=200, range=(0.0, 10.0), exclusion_block=None)
    print(json.dumps(timed(lambda: rdf.run().results.rdf)))
else:
    import tidynamics
    call = tidynamics.msd if what == "tidynamics msd" else tidynamics.acf
    print(json.dumps(timed(lambda: np.mean([call(x[:, i]) for i in range(x.shape[1])], axis=0)[: len(x) // 2 + 1])))
"""


def ours(name: str, x: np.ndarray, side: float) -> Callable[[], np.ndarray]:
    """What is timed of fireassay."""
    numbers, pbc = np.full(x.shape[1], 18), np.ones(3, dtype=bool)
    cell = np.broadcast_to(np.eye(3) * side, (len(x), 3, 3))
    return {
        "rdf": lambda: count_pairs(numbers, x, cell, pbc, REACH, REACH / BINS).distribution()[0],
        "adf": lambda: count_angles(numbers, x, cell, pbc, 2.5).density(),
        "msd": lambda: squared_displacements(x).mean(1),
        "acf": lambda: velocity_autocorrelation(x),
    }[name]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--atoms", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="of freud; default: as many as this job may use")
    parser.add_argument("--public", help="an interpreter with freud-analysis, MDAnalysis and tidynamics")
    given = parser.parse_args()
    from fireassay.threads import available

    threads = given.threads or available().count
    side = max(21.0, (given.atoms / 0.1) ** (1 / 3))
    rng = np.random.default_rng(0)
    moves = rng.normal(size=(given.frames, given.atoms, 3)) * 0.1
    x = rng.uniform(0, side, (given.atoms, 3)) + np.cumsum(moves, axis=0)
    rows = [("rdf", ["freud rdf", "MDAnalysis rdf"]), ("adf", []), ("msd", ["freud msd", "tidynamics msd"]),
            ("acf", ["tidynamics acf"])]  # fmt: skip
    print(f"{given.frames} frames of {given.atoms} atoms, {threads} threads\n")
    print("| quantity | package | s | times ours | largest difference |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npy"
        np.save(path, x)
        for name, others in rows:
            call = ours(name, x, side)
            reference = call()  # compiles
            times: dict[str, list[float]] = {"fireassay": []}
            apart: dict[str, float] = {}
            for _ in range(given.repeats):
                began = time.perf_counter()
                call()
                times["fireassay"].append(time.perf_counter() - began)
                for other in others if given.public else []:
                    command = [given.public, "-c", PUBLIC, other, str(path), str(side), str(threads)]
                    seconds, found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
                    times.setdefault(other, []).append(seconds)
                    values, mine = np.array(found), reference[: len(found)] / (reference[0] if name == "acf" else 1)
                    values = values / values[0] if name == "acf" else values
                    # The first bin is left out: MDAnalysis counts each atom with itself.
                    apart[other] = float(np.abs(values - mine)[1:].max() / np.abs(mine).max())
            own = statistics.median(times["fireassay"])
            for package, seconds in times.items():
                middle = statistics.median(seconds)
                far = f"{apart[package]:.1e}" if package in apart else ""
                print(f"| {name} | {package} | {middle:.3f} | {middle / own:.2f} | {far} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
