"""The command line: help is quick, mistakes are one line with exit code 2, and a run goes from data to report."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from fireassay.cli import app

runner = CliRunner()


def call(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `fireassay ARGUMENTS`, in this process."""
    result = runner.invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def project(project):
    """The folder of the project: copper data and a configuration that trains in a second."""
    return project.root


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["demo"],
        ["train"],
        ["assay"],
        ["report"],
        ["models"],
        ["data"],
        ["data", "inspect"],
        ["data", "make"],
        ["presets"],
        ["config"],
    ],
)
def test_every_verb_has_help(command):
    code, text, _ = call(*command, "--help")
    assert code == 0
    assert "Usage" in text


def test_help_starts_in_well_under_a_second():
    def seconds() -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "fireassay", "--help"], check=True, capture_output=True)
        return time.perf_counter() - start

    bare = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import numpy"], check=True)
    assert min(seconds() for _ in range(3)) < 10 * (time.perf_counter() - bare) + 1


def test_a_run_from_data_to_report(project):
    run = project / "run"
    assert call("train", project / "config.yaml", "-o", run, "-q")[0] == 0
    assert (run / "potential.safetensors").exists()
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["training"]["epochs"] == 2
    code, out, err = call("assay", run, "-q")
    assert code == 0, err
    assert [line.rsplit("/", 1)[1] for line in out.split()] == [
        "accuracy.json",
        "stability.json",
        "landscape.json",
        "uncertainty.json",
    ]
    accuracy = json.loads((run / "assays" / "accuracy.json").read_text())
    assert accuracy["result"]["splits"]["hot"]["forces"]["rmse"]["unit"] == "eV/Å"
    assert accuracy["result"]["splits"]["hot"]["stress"]["rmse"]["value"] > 0
    assert accuracy["provenance"]["command"]
    assert call("report", run, "-o", project / "report.html", "-q")[0] == 0
    assert "tiny" in (project / "report.html").read_text()


def test_energies_alone_are_trained_on_and_what_needs_forces_is_left_out_aloud(project):
    run = project / "energies"
    weights = ["training.loss.forces.weight=0", "training.loss.stress.weight=0"]
    labels = ["data.keys={forces: null, stress: null}", "assays.stability.duration=5", "assays.landscape.points=3"]
    code, _, err = call("train", project / "config.yaml", *weights, *labels, "-o", run, "-q")
    assert code == 0, err
    code, out, err = call("assay", run, "-q")
    assert code == 0, err
    assert "uncertainty is left out" in err
    assert "forces" in err
    assert "landscape.json" in out
    assert call("report", run, "-o", project / "energies.html", "-q")[0] == 0


def test_a_finished_training_is_left_alone_and_another_one_refused(project):
    run = project / "run"
    call("train", project / "config.yaml", "-o", run, "-q")
    before = (run / "potential.safetensors").read_bytes()
    assert call("train", project / "config.yaml", "-o", run, "-q")[0] == 0
    code, _, err = call("train", project / "config.yaml", "seed=3", "-o", run, "-q")
    assert code == 2
    assert "seed was 0, is 3" in err
    assert (run / "potential.safetensors").read_bytes() == before


def test_more_epochs_continue_a_finished_training(project):
    run = project / "run"
    call("train", project / "config.yaml", "-o", run, "-q")
    assert call("train", project / "config.yaml", "training.epochs=4", "-o", run, "-q")[0] == 0
    call("train", project / "config.yaml", "training.epochs=4", "-o", project / "whole", "-q")
    rows = [(folder / "metrics.jsonl").read_text().splitlines() for folder in (run, project / "whole")]
    losses = [[json.loads(row)["loss"] for row in lines] for lines in rows]
    assert len(losses[0]) == 4
    assert losses[0] == losses[1]


def test_anybodys_calculator_is_assayed(project):
    run = project / "emt"
    code, _out, err = call(
        "assay", run, "accuracy", "--calculator", "ase.calculators.emt:EMT()", "--config", project / "config.yaml", "-q"
    )
    assert code == 0, err
    hot = json.loads((run / "assays" / "accuracy.json").read_text())["result"]["splits"]["hot"]
    assert hot["forces"]["max"]["value"] < 1e-6
    assert hot["stress"]["max"]["value"] < 1e-6


def test_a_folder_belongs_to_one_potential(project):
    run, copy = project / "run", project / "copy"
    call("train", project / "config.yaml", "-o", run, "-q")
    before = (run / "run.json").read_bytes()
    calculator = ["--calculator", "ase.calculators.emt:EMT()", "--config", project / "config.yaml"]
    file = ["--potential", run / "potential.safetensors", "--config", project / "config.yaml"]
    assert call("assay", copy, "accuracy", *file, "-q")[0] == 0
    assert call("assay", copy, "accuracy", *file, "-q")[0] == 0
    for folder, source in ((run, calculator), (run, file), (copy, calculator)):
        code, _, err = call("assay", folder, "accuracy", *source, "-q")
        assert code == 2
        assert "another potential" in err or "made for" in err or "holds a training" in err
    assert (run / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nowhere.yaml"], "neither a file nor a preset"),
        (["train", "{project}/config.yaml", "data.train=gone.xyz"], "gone.xyz"),
        (["train", "{project}/config.yaml", "training.epoch=3"], "did you mean 'epochs'"),
        (["train", "{project}/config.yaml", "device=cuda:77"], "device"),
        (["assay", "{project}"], "potential.safetensors"),
        (["assay", "{project}/nothing"], "not a run folder"),
        (["report", "{project}/nothing"], "nothing"),
        (["presets", "show", "demo-mac"], "demo-mace"),
        (["models", "nequipp"], "did you mean 'nequip'"),
        (["data", "make", "salt"], "salt"),
        (["data", "inspect", "{project}/gone.xyz"], "gone.xyz"),
        (["config", "validate", "{project}/config.yaml", "model.type=mac"], "did you mean 'mace'"),
        (["config", "validate", "demo-mace", "model.channels=-3"], "model.channels"),
        (["config", "validate", "demo-mace", "model.n_layers=0"], "model.n_layers"),
        (["config", "validate", "demo-mace", "model.cutoff=0"], "model.cutoff"),
        (["config", "validate", "demo-nequip", "model.radial_hidden=[8, 0]"], "model.radial_hidden.1"),
        (["config", "validate", "compare-so3krates", "model.channels=133"], "133"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(project, arguments, message, monkeypatch):
    monkeypatch.chdir(project)
    code, _, err = call(*(argument.format(project=project) for argument in arguments))
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err


def test_models_are_listed_described_and_written_as_json():
    code, text, _ = call("models", "painn", "nequip", "--time")
    assert code == 0
    assert "Nat. Commun. 13, 2453, 2022" in text
    assert "cutoff=4.0 n_layers=5" in text
    assert "27 atoms" in text
    content = json.loads(call("models", "nequip", "--json")[1])
    assert [family["name"] for family in content["families"]] == ["nequip"]
    assert content["families"][0]["milliseconds"] is None


def test_presets_and_schema_are_printed():
    assert "demo-mace" in call("presets", "list")[1]
    assert "type: mace" in call("presets", "show", "demo-mace")[1]
    assert "properties" in json.loads(call("config", "schema")[1])
    assert "n_layers" in call("config", "show", "demo-mace")[1]


def test_inspect_prints_what_a_file_holds(project):
    code, out, _ = call("data", "inspect", project / "train.xyz")
    assert code == 0
    assert "Cu" in out
    assert "12" in out
    assert json.loads(call("data", "inspect", project / "train.xyz", "--json")[1])


def test_a_calculator_needs_a_start_alone(project):
    emt, start = ("--calculator", "ase.calculators.emt:EMT()"), f"data.start={project / 'train.xyz'}"
    quick = ["probes.points=20", "probes.duration=0", "probes.bulk_atoms=0"]
    code, _, err = call("assay", project / "emt", "probes", *emt, "-q")
    assert code == 2
    assert "data.start=FILE" in err
    code, _, err = call("assay", project / "emt", "probes", *quick, *emt, start, "-q")
    assert code == 0, err
    record = json.loads((project / "emt" / "assays" / "probes.json").read_text())
    assert {probe["verdict"] for probe in record["result"]["probes"]} <= {"sound", "doubtful", "broken", "not asked"}
    code, _, err = call("assay", project / "emt", "accuracy", *emt, "-q")
    assert code == 2
    assert "give data.test" in err
    assert call("report", project / "emt", "-o", project / "emt.html", "-q")[0] == 0
    assert "Lights" in (project / "emt.html").read_text()
