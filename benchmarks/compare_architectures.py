"""Every architecture, in a small size, for equal wall time on this machine: one command, a table and reports.

    python benchmarks/compare_architectures.py --output comparison --seconds 75 --threads 2

Each of fireassay.models is trained by its preset compare-MODEL on the embedded 3bpa-xtb and, where the files of
--acac are found, on acetylacetone (train_300K, tested at 300 and 600 K), then assayed: accuracy, and stability in
molecular dynamics. Written are comparison.md, a table for each data set, and report-SET/report.html with all potentials
of a set. Kernels are compiled before the clock starts. What is finished is not repeated, and an interrupted training
goes on when the same command is given again; a longer --seconds continues trainings that had not done all their epochs.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from fireassay.config import Config, load_config
from fireassay.data.graph import from_structures
from fireassay.data.structure import Structure
from fireassay.errors import InputError, Interrupted
from fireassay.models import MODELS
from fireassay.pipeline.assay import Request, run_assays
from fireassay.pipeline.folder import current
from fireassay.pipeline.material import read_material
from fireassay.pipeline.train import build, run_training
from fireassay.potential_file import load_potential
from fireassay.progress import Console, Progress, Silent
from fireassay.records import RunRecord, load_assay, read_json, write_json, write_text
from fireassay.records.accuracy import AccuracyResult, Errors
from fireassay.records.stability import StabilityResult
from fireassay.report.page import write_report

R = TypeVar("R")
HERE = Path(__file__).resolve().parent
ACAC = HERE.parents[1] / "shared" / "data" / "acac"
SETS = ("3bpa-xtb", "acac")
SPLITS = ("300K", "600K")
FORCE_CALLS = {"one": 1, "ten": 10}  # molecules of a force call


def data_sets(wanted: Sequence[str], acac: Path) -> dict[str, list[str]]:
    """What each data set changes in the presets; acetylacetone is left out aloud when its files are not there.

    Acetylacetone's molecular dynamics is at 600 K, where its enol proton hops between the oxygens: a bond is lost from
    2.5 Å on.
    """
    sets: dict[str, list[str]] = {name: [] for name in wanted}
    if "acac" not in wanted:
        return sets
    names = {"train": "train_300K", "300K": "test_MD_300K", "600K": "test_MD_600K"}
    files = {key: next(acac.glob(f"{name}.xyz*"), None) for key, name in names.items()}
    missing = [names[key] for key, file in files.items() if file is None]
    if missing:
        print(f"acetylacetone is left out: {acac} lacks {', '.join(missing)}", file=sys.stderr)
        return {name: changes for name, changes in sets.items() if name != "acac"}
    tests = ", ".join(f"{split}: '{files[split]}'" for split in SPLITS)
    sets["acac"] = [
        f"data.train='{files['train']}'",
        f"data.test={{{tests}}}",
        "data.start=null",
        "assays.stability.temperature=600.0",
        "assays.stability.bond_limit=2.5",
    ]
    return sets


def compare(config: Config, folder: Path, progress: Progress) -> None:
    """Trains, assays and times one architecture, as far as that has not been done."""
    if not (folder / "potential.safetensors").exists():
        _compile(config)
    run_training(config, folder, progress)
    missing = [name for name in config.assays if not current(folder, name)]
    if missing:
        run_assays(Request(folder, missing), progress)
    if not (folder / "cost.json").exists():
        write_json(folder / "cost.json", force_call_times(folder, read_material(config.data, config.seed).start))


def _compile(config: Config) -> None:
    """One training step on two frames, so that no training pays for compiling kernels."""
    config = config.model_copy(update={"data": config.data.model_copy(update={"limit": 2})})
    built = build(config, read_material(config.data, config.seed), Silent())
    potential = built.potential
    graph = from_structures(built.train.structures, potential.cutoff, torch.float32)
    prediction = potential.predict(graph, differentiable=True)
    assert prediction.forces is not None
    (prediction.energy.sum() + prediction.forces.square().sum()).backward()


def force_call_times(folder: Path, molecule: Structure) -> dict[str, Any]:
    """Median wall time in ms of energy and forces of one and of ten copies of a molecule, as in molecular dynamics."""
    potential = load_potential(folder / "potential.safetensors").frozen()
    found: dict[str, Any] = {"threads": torch.get_num_threads(), "unit": "ms"}
    for name, copies in FORCE_CALLS.items():
        graph = from_structures([molecule] * copies, potential.cutoff, torch.float32)
        times = []
        for _ in range(25):
            began = time.perf_counter()
            potential.predict(graph)
            times.append(1e3 * (time.perf_counter() - began))
        found[name] = statistics.median(times[5:])
    return found


def row(model: str, folder: Path) -> list[str]:
    """One architecture's line of the table; dashes where something is not done."""
    record = RunRecord.load(folder) if (folder / "run.json").exists() else None
    accuracy = _result(folder, "accuracy", AccuracyResult)
    stability = _result(folder, "stability", StabilityResult)
    cost = read_json(folder / "cost.json") if (folder / "cost.json").exists() else {}
    trained = record.training if record is not None else None
    cells = [model, str(record.parameters if record is not None else "–"), str(trained.epochs if trained else "–")]
    none = Errors(n=0)
    for split in SPLITS:
        data = accuracy.splits.get(split) if accuracy is not None else None
        for absolute, relative in (
            ((data.energy_per_atom, data.relative_energy), (data.forces, data.forces)) if data else ((none, none),) * 2
        ):
            mae, percent = (absolute or none).mae, (relative or none).mae_percent
            cells.append(f"{_text(None if mae is None else 1e3 * mae)} ({_text(percent)})")
    if stability is None:
        cells += ["–", "–"]
    else:
        cells.append(f"{_text(stability.times.mean, 0)} of {_text(stability.protocol.duration, 0)}")
        cells.append(_text(100.0 * float((~stability.failed).mean()), 0))
    return [*cells, *(_text(cost.get(name), 1) for name in FORCE_CALLS)]


def _result(folder: Path, assay: str, kind: type[R]) -> R | None:
    path = folder / "assays" / f"{assay}.json"
    return load_assay(path, kind).result if path.exists() else None


def _text(value: float | None, digits: int | None = None) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if digits is None else f"{value:.{digits}f}"


HEADER = [
    "model",
    "parameters",
    "epochs",
    *(f"{what} {split}" for split in SPLITS for what in ("E meV/atom (%)", "F meV/Å (%)")),
    "stable fs",
    "survive %",
    *(f"ms, {copies} molecule{'s' if copies > 1 else ''}" for copies in FORCE_CALLS.values()),
]


def page(sets: Sequence[str], models: Sequence[str], output: Path, options: argparse.Namespace) -> str:
    """comparison.md: how it was made, and one table for each data set."""
    command = f"python benchmarks/compare_architectures.py --seconds {options.seconds:g} --threads {options.threads}"
    lines = [
        "# All architectures, equal time",
        "",
        f"`{command}`: {options.seconds:g} s of training each, {options.threads} threads, {_machine()}, "
        f"torch {torch.__version__}.",
        "",
        "E, F: mean absolute errors of the energy per atom and of force components; in brackets those of relative "
        "energies and of force components in % of the mean absolute reference. Stable: mean time to failure of "
        f"{options.replicas} trajectories, 1600 K for 3bpa-xtb, 600 K for acac. ms: one call for energy and forces.",
    ]
    for name in sets:
        cells = [HEADER, ["---"] * len(HEADER), *(row(model, output / "runs" / name / model) for model in models)]
        lines += [
            "",
            f"## {name}",
            "",
            f"[Report](report-{name}/report.html)",
            "",
            *(f"| {' | '.join(line)} |" for line in cells),
        ]
    return "\n".join(lines) + "\n"


def _machine() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()


def overrides_of(model: str, options: argparse.Namespace) -> list[str]:
    """What the command line changes in a preset."""
    return [
        f"name={model}",
        f"training.stopping.max_seconds={options.seconds}",
        f"assays.stability.duration={options.duration}",
        f"assays.stability.replicas={options.replicas}",
        *([] if options.limit is None else [f"data.limit={options.limit}"]),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparison; returns the exit code, 1 when an architecture failed and 130 or 143 when interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("comparison"))
    parser.add_argument("--seconds", type=float, default=75.0, help="training time of each potential")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default=",".join(MODELS), help="models, separated by commas")
    parser.add_argument("--sets", default=",".join(SETS), help="data sets, separated by commas")
    parser.add_argument("--acac", type=Path, default=ACAC, help="folder of the acetylacetone files")
    parser.add_argument("--duration", type=float, default=1000.0, help="fs of molecular dynamics")
    parser.add_argument("--replicas", type=int, default=8, help="trajectories")
    parser.add_argument("--limit", type=int, help="training frames, for a quick try")
    parser.add_argument("--quiet", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    models = [name.strip() for name in options.only.split(",")]
    if unknown := [name for name in models if name not in MODELS]:
        parser.error(f"no model {unknown[0]!r}; known are {', '.join(MODELS)}")
    wanted = [name.strip() for name in options.sets.split(",")]
    if unknown := [name for name in wanted if name not in SETS]:
        parser.error(f"no data set {unknown[0]!r}; known are {', '.join(SETS)}")
    sets = data_sets(wanted, options.acac)
    progress = Silent() if options.quiet else Console()
    failed = []
    for name, changes in sets.items():
        for model in models:
            try:
                config = load_config(f"compare-{model.replace('_', '-')}", [*changes, *overrides_of(model, options)])
                compare(config, options.output / "runs" / name / model, progress)
            except InputError as error:
                failed.append(model)
                print(f"{model} on {name}: {error}", file=sys.stderr)
            except Interrupted as interruption:
                print(interruption, file=sys.stderr)
                return interruption.exit_code
            except KeyboardInterrupt:
                print("interrupted; repeat the command to continue", file=sys.stderr)
                return 130
            write_text(options.output / "comparison.md", page(list(sets), models, options.output, options))
        folders = [options.output / "runs" / name / model for model in models]
        done = [folder for folder in folders if (folder / "cost.json").exists()]
        if done:
            target = options.output / f"report-{name}" / "report.html"
            print(write_report(done, target, title=f"All architectures on {name}, equal time", progress=progress))
    print(options.output / "comparison.md")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
