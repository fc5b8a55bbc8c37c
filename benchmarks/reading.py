"""Reading extended XYZ: fireassay, its earlier self where a checkout is given, and ASE, side by side in one run.

    python benchmarks/reading.py [--frames 40000] [--molecules 1] [--before CHECKOUT] [--repeats 3]

Each reading is a process of its own; printed are the median of seconds and the largest resident memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

CODE = {
    "fireassay": "from fireassay.data.readers import read; frames = read(path)",
    "before": "from fireassay.data.readers import read; frames = read(path)",
    "ase": "import ase.io; frames = ase.io.read(path, ':', format='extxyz')",
}
TIMED = """
import json, resource, sys, time, warnings
warnings.simplefilter("ignore")
path = sys.argv[1]
import numpy, torch, scipy, ase.io
began = time.perf_counter()
{code}
seconds = time.perf_counter() - began
print(json.dumps([len(frames), seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3]))
"""


def written(folder: Path, count: int, molecules: int) -> Path:
    """An extended XYZ file of `count` frames of 27 atoms for each molecule: the embedded 3BPA frames side by side."""
    from fireassay.data.readers import read
    from fireassay.data.structure import Structure
    from fireassay.data.writing import extxyz_text

    frames = read("3bpa-xtb/train_300K")
    path = folder / "frames.xyz"
    texts = []
    for k in range(len(frames)):
        chosen = [frames[(k + j) % len(frames)] for j in range(molecules)]
        joined = Structure(
            np.concatenate([s.atomic_numbers for s in chosen]),
            np.concatenate([s.positions + np.array([15.0 * j, 0, 0]) for j, s in enumerate(chosen)]),
            energy=sum(s.energy or 0.0 for s in chosen),
            forces=np.concatenate([s.forces for s in chosen if s.forces is not None]),
        )
        texts.append(extxyz_text(joined))
    with path.open("w", encoding="utf-8") as file:
        for k in range(count):
            file.write(texts[k % len(texts)])
    return path


def measured(name: str, path: Path, source: Path | None) -> tuple[int, float, float]:
    """Frames, seconds, MB of one reading in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if source is not None:
        environment["PYTHONPATH"] = str(source / "src")
    done = subprocess.run(
        [sys.executable, "-c", TIMED.format(code=CODE[name]), str(path)],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    frames, seconds, memory = json.loads(done.stdout)
    return frames, seconds, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=40_000)
    parser.add_argument("--molecules", type=int, default=1)
    parser.add_argument("--before", type=Path, help="a checkout of an earlier version")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    names = ["fireassay", *(["before"] if options.before else []), "ase"]
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), options.frames, options.molecules)
        results: dict[str, list[tuple[int, float, float]]] = {name: [] for name in names}
        for _ in range(options.repeats):
            for name in names:
                results[name].append(measured(name, path, options.before if name == "before" else None))
        size = f"{path.stat().st_size / 1e6:.0f} MB"
        print(f"{options.frames} frames of {27 * options.molecules} atoms, {size}, medians of {options.repeats}")
        for name, rows in results.items():
            assert {row[0] for row in rows} == {options.frames}
            seconds = statistics.median(row[1] for row in rows)
            print(f"{name:10s} {1000 * seconds:8.0f} ms  {np.max([row[2] for row in rows]):8.0f} MB")


if __name__ == "__main__":
    main()
