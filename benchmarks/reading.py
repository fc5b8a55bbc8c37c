"""Reading extended XYZ: fireassay, its earlier self where a checkout is given, and public readers, in one run.

    python benchmarks/reading.py [--frames 40000] [--molecules 1] [--before CHECKOUT] [--public PYTHON] [--repeats 3]

ASE is always among them; PYTHON is an interpreter with the packages extxyz (the C reader of libAtoms) and mace-torch
(its loader of training data), without which they are left out. Each reading is a process of its own; printed are the
median of seconds and the largest resident memory, without and with that of importing.
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
    "fireassay": "frames = read(path)",
    "before": "frames = read(path)",
    "ASE": "frames = ase.io.read(path, ':', format='extxyz')",
    "extxyz": "frames = extxyz.read_dicts(path)",
    "mace-torch": """
_, frames = load_from_xyz(path, KeySpecification.from_defaults())
""",
}
IMPORTS = {
    "ASE": "import ase.io",
    "extxyz": "import extxyz",
    "mace-torch": "from mace.data import KeySpecification, load_from_xyz",
}
TIMED = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
path = sys.argv[1]
import numpy, torch, scipy, ase.io
{imports}
def largest():  # MB; the resource module counts what the parent had before it started this process
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1e3
before = largest()
began = time.perf_counter()
{code}
seconds = time.perf_counter() - began
print(json.dumps([len(frames), seconds, before, largest()]))
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


def measured(name: str, path: Path, python: str, source: Path | None) -> tuple[int, float, float, float]:
    """Frames, seconds, MB before and after of one reading in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if source is not None:
        environment["PYTHONPATH"] = str(source / "src")
    imports = IMPORTS.get(name, "from fireassay.data.readers import read")
    done = subprocess.run(
        [python, "-c", TIMED.format(imports=imports, code=CODE[name]), str(path)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr.strip().splitlines()[-1]}")
    frames, seconds, before, after = json.loads(done.stdout.splitlines()[-1])
    return frames, seconds, before, after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=40_000)
    parser.add_argument("--molecules", type=int, default=1)
    parser.add_argument("--before", type=Path, help="a checkout of an earlier version")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--public", help="an interpreter with extxyz and mace-torch")
    options = parser.parse_args()
    names = ["fireassay", *(["before"] if options.before else []), "ASE"]
    names += ["extxyz", "mace-torch"] if options.public else []
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), options.frames, options.molecules)
        renamed = path.with_name("renamed.xyz")  # mace-torch does not read labels under the names that ASE takes
        renamed.write_text(
            path.read_text(encoding="utf-8").replace("forces:R", "REF_forces:R").replace(" energy=", " REF_energy="),
            encoding="utf-8",
        )
        results: dict[str, list[tuple[int, float, float, float]]] = {name: [] for name in names}
        for _ in range(options.repeats):
            for name in names:
                python = options.public if name in ("extxyz", "mace-torch") else sys.executable
                file = renamed if name == "mace-torch" else path
                results[name].append(measured(name, file, python, options.before if name == "before" else None))
        size = f"{path.stat().st_size / 1e6:.0f} MB"
        print(f"{options.frames} frames of {27 * options.molecules} atoms, {size}, medians of {options.repeats}")
        for name, rows in results.items():
            assert {row[0] for row in rows} == {options.frames}
            seconds = statistics.median(row[1] for row in rows)
            own, largest = (np.max([row[3] - start * row[2] for row in rows]) for start in (1, 0))
            print(f"{name:10s} {1000 * seconds:8.0f} ms  {own:8.0f} MB of {largest:5.0f} MB")


if __name__ == "__main__":
    main()
