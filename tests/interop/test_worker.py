"""Scripts and calculators in another interpreter: they may chatter, die, hang or lie, and the user reads one line."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.calculators.emt import EMT

from fireassay.data.graph import from_structures
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.interop.ase import CalculatorPredictor
from fireassay.interop.worker import PROTOCOL, WORKERS, WorkerPredictor, read_export, run_export
from fireassay.potential import Failing

FRAME = Structure(np.array([1, 8]), np.array([[0.0, 0, 0], [0, 0, 1.1]]))
PREAMBLE = f"""
import sys
sys.path.append({str(WORKERS)!r})
import numpy as np
from exchange import Refusal, run
print("chatter on standard output")
print("chatter on standard error", file=sys.stderr)
"""


def export_of(tmp_path, body, **options):
    """What `run_export` makes of a script."""
    script, file = tmp_path / "script.py", tmp_path / "model.file"
    script.write_text(PREAMBLE + body)
    file.write_text("a model")
    return run_export(str(script), sys.executable, file, [FRAME], **options)


def test_an_export_comes_back_whatever_is_printed(tmp_path):
    export = export_of(
        tmp_path,
        """
def export(path):
    return {"text": path.read_text()}, {"a": np.arange(3.0)}, [1, 8], lambda f: (float(f.positions.sum()), -f.positions)
run(export)
""",
    )
    assert export.need("text") == "a model"
    assert export.under("") == {}
    assert export.arrays["a"].tolist() == [0.0, 1.0, 2.0]
    assert len(export.frames) == 5  # four that are made up, and ours
    last = export.frames[-1]
    assert last.energy == pytest.approx(1.1)
    np.testing.assert_allclose(last.forces, -FRAME.positions)
    assert {int(z) for frame in export.frames for z in frame.atomic_numbers} == {1, 8}
    assert [frame.pbc.all() for frame in export.frames] == [False, True, False, True, False]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def export(path): raise Refusal('this model\\nhas two heads')\nrun(export)", "this model has two heads"),
        ("raise RuntimeError('broken environment')", "exit code 1: RuntimeError: broken environment"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "signal 9"),
        ("sys.exit(0)", "export cannot be read"),
        ("import time; time.sleep(60)", "did not finish within"),
        (
            "run(lambda path: ({}, {}, [1], lambda f: (0.0, -f.positions)))",
            r"the frames to check hold atomic numbers \[8\], the model knows \[1\]",
        ),
    ],
)
def test_failures_are_one_line(tmp_path, body, message):
    with pytest.raises(InputError, match=message) as caught:
        export_of(tmp_path, body, timeout=2.0 if "sleep" in body else 60.0)
    assert "\n" not in str(caught.value)


def test_an_interpreter_that_is_not_there_and_a_file_that_is_not_there(tmp_path):
    file = tmp_path / "model.file"
    with pytest.raises(InputError, match=r"model\.file is not a file"):
        run_export("export_mace.py", sys.executable, file)
    file.write_text("")
    with pytest.raises(InputError, match=r"cannot start .*/nowhere/python"):
        run_export("export_mace.py", "/nowhere/python", file)


def test_a_missing_package_is_named(tmp_path):
    file = tmp_path / "best.model"
    file.write_text("")
    with pytest.raises(InputError, match=r"cannot import mace-torch .*; name the interpreter"):
        run_export("export_mace.py", sys.executable, file)


def written(folder, **content):
    arrays = {"counts": np.array([2]), "atomic_numbers": np.array([1, 8]), "positions": np.zeros((2, 3))}
    arrays |= {
        "cell": np.zeros((1, 3, 3)),
        "pbc": np.zeros((1, 3), bool),
        "energy": np.zeros(1),
        "forces": np.zeros((2, 3)),
    }
    given = {**{f"frames/{name}": array for name, array in arrays.items()}, **content}
    np.savez(folder / "arrays.npz", **given)
    (folder / "export.json").write_text(json.dumps({"protocol": PROTOCOL}))


def test_pickled_arrays_are_not_loaded(tmp_path):
    written(tmp_path)
    assert len(read_export(tmp_path).frames) == 1
    written(tmp_path, evil=np.array([print], dtype=object))
    with pytest.raises(InputError, match="allow_pickle=False"):
        read_export(tmp_path)


def test_another_protocol_is_refused(tmp_path):
    written(tmp_path)
    (tmp_path / "export.json").write_text(json.dumps({"protocol": PROTOCOL + 1}))
    with pytest.raises(InputError, match=f"protocol {PROTOCOL + 1}"):
        read_export(tmp_path)


def test_a_calculator_elsewhere_predicts_as_here():
    rng = np.random.default_rng(0)
    cell = 3.7 * np.eye(3)
    structures = [
        Structure(np.array([29, 79]), np.array([[0.0, 0, 0], [0, 0.2, 2.4]])),
        Structure(np.array([29] * 4), rng.uniform(0, 0.2, (4, 3)) + cell[0, 0] * FCC, cell, np.ones(3, bool)),
    ]
    graph = from_structures(structures[1:], 5.0, torch.float32)
    here = CalculatorPredictor(EMT())
    with WorkerPredictor(sys.executable, "ase.calculators.emt:EMT()") as worker:
        for asked in (graph, graph):
            a, b = here.predict(asked, stress=True), worker.predict(asked, stress=True)
            assert a.energy.equal(b.energy)
            assert a.forces.equal(b.forces)
            assert a.stress.equal(b.stress)
            assert b.forces.dtype == torch.float32
        both = from_structures(structures, 5.0)
        a, b = here.predict(both), worker.predict(both)
        assert a.energy.equal(b.energy)
        assert a.forces.equal(b.forces)


FCC = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])


def test_a_calculator_that_fails_says_so_and_lives_on():
    water = from_structures([FRAME], 5.0)
    copper = from_structures([Structure(np.array([29, 29]), np.array([[0.0, 0, 0], [0, 0, 2.5]]))], 5.0)
    with WorkerPredictor(sys.executable, "ase.calculators.emt:EMT()") as worker:
        chatty = CalculatorPredictor(EMT()).predict(copper)
        with pytest.raises(InputError, match=r"failed: PropertyNotImplementedError|failed: NotImplementedError"):
            worker.predict(from_structures([Structure(np.array([92]), np.zeros((1, 3)))], 5.0))
        assert worker.predict(copper).energy.equal(chatty.energy)
        assert torch.isfinite(worker.predict(water).energy).all()


@pytest.mark.parametrize("text", ["nonsense", "ase.calculators.emt:Missing()", "missing.module:A()", "os:system('ls')"])
def test_a_calculator_that_is_none(text):
    with pytest.raises(InputError, match="failed"), WorkerPredictor(sys.executable, text) as worker:
        worker.predict(from_structures([FRAME], 5.0))


def interpreter(folder: Path, body: str) -> Path:
    """A program that stands for an interpreter: BODY, then Python."""
    program = folder / "python"
    program.write_text(f'#!/bin/sh\n{body}\nexec {sys.executable} "$@"\n')
    program.chmod(0o755)
    return program


def test_a_banner_on_the_standard_output_does_no_harm(tmp_path):
    graph = from_structures([FRAME], 5.0)
    with WorkerPredictor(interpreter(tmp_path, "echo Welcome to the cluster"), "ase.calculators.emt:EMT()") as worker:
        assert torch.isfinite(worker.predict(graph).energy).all()


def test_a_worker_that_does_not_answer_is_ended_even_when_it_does_not_listen():
    worker = WorkerPredictor(sys.executable, "ase.calculators.emt:EMT()")
    worker.timeout = 0.5
    worker._process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(InputError, match=r"has not answered within 0\.5 s and was ended"):
        worker.predict(from_structures([FRAME], 5.0))
    assert time.monotonic() - began < 15
    with pytest.raises(InputError, match="has been closed"):
        worker.predict(from_structures([FRAME], 5.0))
    worker.close()


def test_one_failure_is_one_structure(tmp_path):
    uranium = Structure(np.array([92]), np.zeros((1, 3)))
    graph = from_structures([FRAME, uranium, FRAME], 5.0)
    with WorkerPredictor(sys.executable, "ase.calculators.emt:EMT()", nan_on_failure=True) as worker:
        found = worker.predict(graph)
        assert torch.isnan(found.energy).tolist() == [False, True, False]
        assert list(worker.failures) == [1]
    assert isinstance(worker, Failing)


def test_the_interpreter_that_is_named_is_the_one_that_runs(tmp_path, monkeypatch):
    """./python is the file here; the leading ./ must not be lost."""
    interpreter(tmp_path, f"echo here > {tmp_path}/ran")
    monkeypatch.chdir(tmp_path)
    with WorkerPredictor("./python", "ase.calculators.emt:EMT()") as worker:
        worker.predict(from_structures([FRAME], 5.0))
    assert (tmp_path / "ran").exists()


def test_a_process_that_is_killed_is_started_anew():
    graph = from_structures([replace(FRAME, positions=FRAME.positions * (1 + k / 10)) for k in range(3)], 5.0)
    with WorkerPredictor(sys.executable, "ase.calculators.emt:EMT()", nan_on_failure=True) as worker:
        before = worker.predict(graph, stress=True)
        os.kill(worker._process.pid, signal.SIGKILL)
        after = worker.predict(graph, stress=True)
        assert worker.failures == {}
        assert torch.equal(before.energy, after.energy)
        np.testing.assert_array_equal(before.forces, after.forces)


def test_a_structure_that_ends_the_process_fails_alone(tmp_path):
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "fatal.py").write_text(
        "import os\n"
        "from ase.calculators.emt import EMT\n"
        "class Fatal(EMT):\n"
        "    def calculate(self, atoms=None, *a, **k):\n"
        "        if len(atoms) == 2:\n"
        "            os._exit(7)\n"
        "        super().calculate(atoms, *a, **k)\n",
        encoding="utf-8",
    )
    python = interpreter(tmp_path, f"export PYTHONPATH={folder}; shift")  # without -I, which comes first
    sizes = [4, 2, 4]
    frames = [Structure(np.full(n, 29), 2.6 * np.arange(3 * n).reshape(n, 3) / 3) for n in sizes]
    graph = from_structures(frames, 1e-3)
    with WorkerPredictor(python, "fatal:Fatal()", nan_on_failure=True) as worker:
        found = worker.predict(graph)
        assert list(worker.failures) == [1]
        assert "exit code 7" in worker.failures[1]
        assert torch.isfinite(found.energy).tolist() == [True, False, True]
        fatal = from_structures([frames[1]] * 12, 1e-3)
        with pytest.raises(InputError, match="10 times in a row"):
            worker.predict(fatal)
    with WorkerPredictor(python, "fatal:Fatal()") as strict, pytest.raises(InputError, match="exit code 7"):
        strict.predict(graph)
