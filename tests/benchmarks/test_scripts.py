"""The benchmarks run as they are typed, in any folder, on the embedded data."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(
    path.name
    for path in BENCHMARKS.glob("*.py")
    if not path.name.startswith("reference_") and 'if __name__ == "__main__"' in path.read_text(encoding="utf-8")
)
SHORT = {
    "architectures.py": ["painn", "mace-32", "--rounds", "1"],
    "convolution.py": ["--repeats", "2", "--channels", "8"],
    "landscape.py": ["--model", "mace", "--count", "3", "--rounds", "1"],
    "ltau.py": ["--models", "mace-32", "--counts", "1", "--repeats", "1"],
    "md.py": ["--rounds", "1", "--replicas", "2", "--steps", "2"],
    "neighbours.py": ["--repeats", "1"],
    "observables.py": ["--frames", "3", "--atoms", "30", "--repeats", "1"],
    "reading.py": ["--frames", "20", "--repeats", "1"],
    "streaming.py": ["--replicas", "2", "--steps", "4", "--rounds", "1", "--memory", "0"],
    "training.py": ["--steps", "5"],
}
LONG = {"compare_architectures.py", "cuda.py"}  # have tests of their own

ALL = """
import contextlib, io, runpy, sys
for name in {scripts!r}:
    sys.path.insert(0, {folder!r})  # cuda.py takes it away
    sys.argv = [name, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as told, contextlib.suppress(SystemExit):
        runpy.run_path({folder!r} + "/" + name, run_name="__main__")
    assert "usage" in told.getvalue(), name
"""


def test_every_benchmark_says_how_it_is_used(tmp_path):
    """From the folder of the benchmarks, where cuda.py lies, which is the name of a package that torch looks for."""
    code = ALL.format(folder=str(BENCHMARKS), scripts=SCRIPTS)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_benchmark_is_run_below():
    assert set(SHORT) | LONG == set(SCRIPTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_a_benchmark_runs_in_an_empty_folder(name, tmp_path):
    command = [sys.executable, str(BENCHMARKS / name), *SHORT[name]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "|" in done.stdout or "ms" in done.stdout
