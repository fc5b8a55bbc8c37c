"""Published protocols on small data: every task, resumed, one report; what is missing is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.io import write
from typer.testing import CliRunner

from fireassay.cli import app
from fireassay.data.structure import Provenance, Structure
from fireassay.errors import InputError
from fireassay.pipeline.protocol import PROTOCOLS, ProtocolOrder, _Wishes, conditions, run_protocol
from fireassay.progress import Silent
from fireassay.records.protocol import ProtocolRecord

EMT = "ase.calculators.emt:EMT()"
LJ = "ase.calculators.lj:LennardJones(epsilon=0.0104, sigma=3.4, rc=6.0, smooth=True, ro=5.0)"
QUICK = [
    "structure.duration=40", "structure.replicas=2", "dynamics.duration=80", "dynamics.replicas=2", "dynamics.stride=2",
    "dynamics.paired=20", "dynamics.relabelled=6", "timestep=2",
]  # fmt: skip


def argon_frames(n: int = 12, seed: int = 0) -> list[Atoms]:
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(n):
        atoms = bulk("Ar", "fcc", a=5.3, cubic=True) * 2
        atoms.positions += rng.normal(size=atoms.positions.shape) * 0.1
        atoms.calc = LennardJones(epsilon=0.0104, sigma=3.4, rc=6.0, smooth=True, ro=5.0)
        atoms.get_forces()
        frames.append(atoms)
    return frames


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two calculators as run folders, with two test splits."""
    root = tmp_path_factory.mktemp("protocol")
    write(root / "cool.xyz", argon_frames())
    write(root / "warm.xyz", argon_frames(seed=1))
    weaker = LJ.replace("0.0104", "0.008")
    for name, calculator in (("good", LJ), ("weak", weaker)):
        arguments = [
            "assay", str(root / "runs" / name), "accuracy", "--calculator", calculator, "-q",
            f"data.test={{40K: {root}/cool.xyz, 80K: {root}/warm.xyz}}", f"data.start={root}/cool.xyz",
        ]  # fmt: skip
        found = CliRunner().invoke(app, arguments)
        assert found.exit_code == 0, found.output
    return root


def test_egraffbench_end_to_end_and_again(folder: Path):
    runs = [str(folder / "runs" / name) for name in ("good", "weak")]
    output = folder / "bench"
    command = ["protocol", "egraffbench", *runs, *QUICK, "--oracle", LJ, "-o", str(output), "-q"]
    found = CliRunner().invoke(app, command)
    assert found.exit_code == 0, found.output
    record = ProtocolRecord.load(output)
    assert [(t.potential, t.task, t.temperature, t.timestep) for t in record.trials] == [
        ("good", "40K", 40.0, 2.0), ("good", "80K", 80.0, 2.0), ("weak", "40K", 40.0, 2.0), ("weak", "80K", 80.0, 2.0),
    ]  # fmt: skip
    assert record.notes == []
    page = (output / "report.html").read_text(encoding="utf-8")
    for words in ("Every trial", "All round", "Errors and simulations", "good-40K", "weak-80K"):
        assert words in page
    table = (output / "tables" / "protocol.csv").read_text(encoding="utf-8").splitlines()
    assert len(table) == 5
    heads = table[0].split(",")
    force, violation = heads.index("force MAE [eV/Å]"), heads.index("FV")
    rows = {tuple(line.split(",")[:2]): line.split(",") for line in table[1:]}
    assert float(rows["good", "40K"][force]) < 1e-6 < float(rows["weak", "40K"][force])
    assert float(rows["good", "40K"][violation]) < 1e-6 < float(rows["weak", "40K"][violation])
    stamp = (output / "runs/good-40K/assays/structure.json").stat().st_mtime_ns
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 0, again.output
    assert (output / "runs/good-40K/assays/structure.json").stat().st_mtime_ns == stamp
    changed = CliRunner().invoke(app, [*command, "structure.replicas=1"])
    assert changed.exit_code == 0, changed.output
    assert (output / "runs/good-40K/assays/structure.json").stat().st_mtime_ns > stamp
    settings = json.loads((output / "runs/good-40K/assays/structure.json").read_text())["settings"]
    assert settings["replicas"] == 1
    assert settings["temperature"] == 40.0


def test_md17_stability_watches_the_radial_distribution_of_a_periodic_system(folder: Path):
    order = ProtocolOrder(
        "md17-stability", [folder / "runs/good"], folder / "stable",
        ["stability.duration=120", "stability.replicas=2", "stability.rdf_window=40", "stability.rdf_limit=0.3",
         "stability.drift_duration=0", "timestep=2", "stability.temperature=600"],
    )  # fmt: skip
    assert run_protocol(order, Silent()).exists()
    result = json.loads((folder / "stable/runs/good-40K/assays/stability.json").read_text())["result"]
    assert "radial_distribution" in result["protocol"]["criteria"]
    assert {f["criterion"] for f in result["failures"]} == {"radial_distribution"}
    assert result["failures"][0]["value"] > 0.3


def test_transport_needs_a_periodic_system_and_says_what_it_left_out(folder: Path):
    told: list[str] = []
    order = ProtocolOrder(
        "nequip-transport", [folder / "runs/good"], folder / "transport",
        ["structure.duration=40", "structure.equilibration=10", "dynamics.duration=80", "dynamics.equilibration=10",
         "dynamics.fit=[10, 30]", "dynamics.stride=2", "timestep=2"], tell=told.append,
    )  # fmt: skip
    run_protocol(order, Silent())
    result = json.loads((folder / "transport/runs/good-40K/assays/dynamics.json").read_text())["result"]
    assert result["production"] == "nose_hoover"
    assert result["diffusivities"][0]["window_to"]["value"] == 30.0


def test_hydrogen_against_density(tmp_path: Path):
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(2)] * 3), -1).reshape(-1, 3) * 4.0
    x = np.concatenate([grid, grid + np.array([0.74, 0, 0])]) + rng.normal(size=(16, 3)) * 0.01
    write(tmp_path / "h.xyz", Atoms("H16", x, cell=[8, 8, 8], pbc=True))
    arguments = ["assay", str(tmp_path / "emt"), "probes", "--calculator", EMT, "-q", f"data.start={tmp_path}/h.xyz",
                 "probes.dimers=false", "probes.bonds=0", "probes.duration=0", "probes.bulk_atoms=0"]  # fmt: skip
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 0, found.output
    order = ProtocolOrder(
        "warm-dense-hydrogen", [tmp_path / "emt"], tmp_path / "dense",
        ["densities=[0.04, 0.05]", "temperature=50", "timestep=0.5", "structure.duration=5",
         "structure.equilibration=2", "dynamics.duration=20", "dynamics.equilibration=2", "dynamics.stride=1",
         "dynamics.replicas=1"],
    )  # fmt: skip
    run_protocol(order, Silent())
    trials = ProtocolRecord.load(tmp_path / "dense").trials
    assert [t.density for t in trials] == [0.04, 0.05]
    from ase.io import read

    for trial in trials:
        atoms = read(tmp_path / "dense" / trial.folder / "start.xyz")
        assert atoms.get_masses().sum() * 1.66053906660 / atoms.get_volume() == pytest.approx(trial.density)  # type: ignore[union-attr]
    copper = ProtocolOrder("warm-dense-hydrogen", [tmp_path / "emt"], tmp_path / "no")
    write(tmp_path / "h.xyz", bulk("Cu", cubic=True))
    with pytest.raises(InputError, match=r"is Cu4, pbc .*; the protocol is for hydrogen in a periodic cell"):
        run_protocol(copper, Silent())


def test_temperatures_and_time_steps_are_the_published_ones():
    nothing = _Wishes(None, None, (), lambda text: None)

    def of(symbols: str, name: str = "test", pbc: bool = False, kelvin: float | None = None, wishes: _Wishes = nothing):
        atoms = Atoms(symbols, np.arange(3 * len(Atoms(symbols))).reshape(-1, 3))
        cell = np.eye(3) * 999
        frame = Structure(
            atoms.numbers.astype(np.int64), atoms.positions.astype(float), cell, np.full(3, pbc),
            provenance=Provenance(temperature=kelvin),
        )  # fmt: skip
        return conditions(name, [frame], wishes)

    assert of("C5H8O2", "300K") == (300.0, 1.0)
    assert of("C5H8O2", "MD 600 K") == (600.0, 0.5)
    assert of("C12H12N2O", kelvin=600.0) == (600.0, 1.0)
    assert of("Li27P12S44", pbc=True) == (520.0, 1.0)
    assert of("Ge40Te160", pbc=True) == (920.0, 0.12)
    assert of("Li28P4S24", pbc=True) == (3000.0, 1.0)
    assert of("C9H8O4") == (500.0, 0.5)
    assert of("Cu4", "900K", pbc=True) == (900.0, 1.0)
    assert of("C9H8O4", wishes=_Wishes(350.0, 0.25, (), lambda text: None)) == (350.0, 0.25)
    with pytest.raises(InputError, match=r"the temperature of test \(Cu4\) is unknown; give temperature=K"):
        of("Cu4", pbc=True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["egrafbench", "x"], "did you mean 'egraffbench'"),
        (["egraffbench"], "a protocol needs run folders"),
        (["egraffbench", "nowhere"], "nowhere has no config.yaml"),
        (["egraffbench", "nowhere", "temperature=-1"], "temperature is -1; needs a number above 0"),
        (["warm-dense-hydrogen", "nowhere", "densities=3"], "densities is 3; needs a list"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(app, ["protocol", *arguments])
    assert found.exit_code == 2, found.output
    assert said in " ".join(found.output.split())
    assert "Traceback" not in found.output


def test_protocols_are_listed():
    found = CliRunner().invoke(app, ["protocol"])
    assert found.exit_code == 0
    assert all(name in found.output for name in PROTOCOLS)
