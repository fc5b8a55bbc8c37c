"""Scripts and calculators in another interpreter: they may chatter, die, hang or lie, and the user reads one line."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from ase.calculators.emt import EMT

from fireassay.data.graph import from_structures
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.interop.ase import CalculatorPredictor
from fireassay.interop.worker import PROTOCOL, WORKERS, WorkerPredictor, read_export, run_export

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
