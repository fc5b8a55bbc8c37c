"""The command line: thin verbs over the layers below. Heavy imports wait until a verb needs them.

Exit codes: 0 done; 2 input that cannot be used (one line on stderr says what to do); 130 interrupted by Ctrl-C and
143 by SIGTERM, with everything saved for a resume.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from fireassay import __version__
from fireassay.errors import DataWarning, InputError, Interrupted
from fireassay.kernel_cache import prepare as prepare_kernels
from fireassay.threads import prepare as prepare_threads

app = typer.Typer(
    name="fireassay",
    help="Train machine-learned interatomic potentials and put them through the fire.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
data_app = typer.Typer(no_args_is_help=True, help="Look at data files and at the embedded data sets.")
presets_app = typer.Typer(
    no_args_is_help=True, help="Recipes that ship, named after the paper and table they reproduce."
)
config_app = typer.Typer(no_args_is_help=True, help="Check, complete and document configurations.")
app.add_typer(data_app, name="data")
app.add_typer(presets_app, name="presets")
app.add_typer(config_app, name="config")

_OVERRIDE = re.compile(r"data\.[a-z_]+=")

Overrides = Annotated[
    list[str] | None, typer.Argument(help="Overrides such as training.epochs=50 model.channels=32.", show_default=False)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Keys = Annotated[
    list[str] | None, typer.Option("--key", help="Label keys in the file, as energy=energy_xtb; repeatable.")
]
Units = Annotated[list[str] | None, typer.Option("--unit", help="Units in the file, as energy=kcal/mol; repeatable.")]


@contextlib.contextmanager
def _reported() -> Iterator[None]:
    """Turns bad input into one line and exit code 2, and an interruption into its own code."""
    try:
        with _warnings_as_text(), _terminable():
            yield
    except InputError as error:
        typer.echo(f"fireassay: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(2) from None
    except Interrupted as interruption:
        typer.echo(f"fireassay: {interruption}", err=True)
        raise typer.Exit(interruption.exit_code) from None
    except KeyboardInterrupt:
        typer.echo("fireassay: interrupted; repeat the command to continue", err=True)
        raise typer.Exit(130) from None
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        typer.echo(f"fireassay: cannot use{where}: {error.strerror or error}", err=True)
        raise typer.Exit(2) from None


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM, with which queues end a job, does what Ctrl-C does: work in progress is saved on the way out."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted("stopped by SIGTERM; repeat the command to continue", number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


@contextlib.contextmanager
def _warnings_as_text() -> Iterator[None]:
    """Shows each warning about data once, as a line of text without the place in our source."""
    told: set[str] = set()
    show = warnings.showwarning

    def told_once(message, category, filename, lineno, file=None, line=None) -> None:
        if not issubclass(category, DataWarning):
            show(message, category, filename, lineno, file, line)
        elif str(message) not in told:
            told.add(str(message))
            _tell(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("always", DataWarning)
        warnings.showwarning = told_once
        yield


def _pairs(values: list[str] | None, what: str) -> dict[str, str] | None:
    if not values:
        return None
    wrong = [value for value in values if "=" not in value]
    if wrong:
        raise InputError(f"{wrong[0]!r} is not a {what}; write it as energy=...")
    return dict(value.split("=", 1) for value in values)  # type: ignore[misc]


def _reading(arguments: list[str], key: list[str] | None, unit: list[str] | None):
    """The files among the arguments, and how to read them: by overrides as for train, --key and --unit."""
    from fireassay.config import reading_options

    names = [argument for argument in arguments if not _OVERRIDE.match(argument)]
    if not names:
        raise InputError("no data file is named; needs at least one")
    overrides = [argument for argument in arguments if _OVERRIDE.match(argument)]
    return names, reading_options(overrides, _pairs(key, "label key"), _pairs(unit, "unit"))


def _shares(text: str | None) -> dict[str, float] | None:
    """Parts and shares of a text such as train=0.8,test=0.2."""
    if text is None:
        return None
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return {name.strip(): float(share) for name, share in pairs}
    except ValueError:
        raise InputError(f"--split {text} is no list of parts with shares, as train=0.8,test=0.2") from None


def _tell(text: str) -> None:
    typer.echo(f"fireassay: {text}", err=True)


def _splits(values: list[str] | None) -> dict[str, str]:
    """Test files by the name of their split: the one that is given, or the file's own."""
    found: dict[str, str] = {}
    for value in values or []:
        name, equals, file = value.partition("=")
        name, file = (name, file) if equals else (Path(value).name.split(".")[0], value)
        if name in found:
            raise InputError(f"two test files are called {name!r}; name them, as --test 300K={file}")
        found[name] = file
    return found


def _progress(quiet: bool):
    from fireassay.progress import Console, Silent

    return Silent() if quiet or os.environ.get("RANK", "0") != "0" else Console()


def _version(value: bool) -> None:
    if value:
        typer.echo(f"fireassay {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    del version


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for runs and report.")] = Path(
        "fireassay-demo"
    ),
    minutes: Annotated[float, typer.Option(help="Rough time for both trainings together.")] = 3.0,
    quiet: Quiet = False,
) -> None:
    """Train a NequIP and a MACE on the embedded 3BPA set, assay both, write the report. A few minutes on two cores.

    Run again to continue after an interruption: what is finished is not repeated.
    """
    with _reported():
        from fireassay.pipeline.demo import run_demo

        typer.echo(f"report: {run_demo(output, minutes, _progress(quiet))}")


@app.command()
def init(
    train: Annotated[str, typer.Argument(help="Training frames: a file, a folder or a pattern of any known format.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="How they are read, as 'data.keys={energy: energy_xtb}'.", show_default=False),
    ] = None,
    test: Annotated[
        list[str] | None, typer.Option(help="A test file, as 300K=test.xyz or test.xyz; repeatable.")
    ] = None,
    validation: Annotated[
        str | None, typer.Option(help="Validation frames; default: some of the training file.")
    ] = None,
    isolated_atoms: Annotated[str | None, typer.Option(help="Frames of isolated atoms, for E0.")] = None,
    start: Annotated[str | None, typer.Option(help="Where molecular dynamics starts.")] = None,
    model: Annotated[str, typer.Option(help="The architecture (fireassay models).")] = "mace",
    recipe: Annotated[
        str | None, typer.Option(help="A preset whose model and training are taken instead of the model's own.")
    ] = None,
    key: Keys = None,
    unit: Units = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The configuration to write.")] = Path("config.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    timing: Annotated[bool, typer.Option(help="Measure how long an epoch takes here.")] = True,
) -> None:
    """Look at data files and write a commented configuration that fits them, to be edited and trained.

    Example: `fireassay init train.xyz --test 300K=test_300K.xyz`, then `fireassay train config.yaml`.
    """
    with _reported():
        from fireassay.config import reading_options
        from fireassay.pipeline.init import Files, write_config
        from fireassay.records.files import write_text

        options = reading_options(overrides or [], _pairs(key, "label key"), _pairs(unit, "unit"))
        if output.exists() and not force:
            raise InputError(f"{output} exists; give another name with --output, or --force to replace it")
        files = Files(train, _splits(test), validation, isolated_atoms, start, options.keys, options.units,
                      options.elements, tuple(options.accept))  # fmt: skip
        text, notes = write_config(files, model, recipe, timing)
        write_text(output, text)
        for note in notes:
            _tell(note)
        typer.echo(output)


@app.command()
def train(
    config: Annotated[str, typer.Argument(help="A YAML file, or the name of a preset (fireassay presets list).")],
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Run folder; default runs/NAME.")] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Discard the folder's training, potential and assays first.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Train a potential. An interrupted training continues exactly where it stopped when the command is repeated.

    Under torchrun every process takes its share of each batch:
    `torchrun --nproc-per-node 2 -m fireassay train config.yaml`.
    """
    with _reported():
        from fireassay.config import load_config
        from fireassay.pipeline.train import run_training

        settings = load_config(config, overrides or [])
        folder = output or Path("runs") / settings.name.replace(" ", "-")
        result = run_training(settings, folder, _progress(quiet), restart, _tell)
        if result is not None:
            typer.echo(result)


@app.command()
def assay(
    run: Annotated[Path, typer.Argument(help="A run folder, or with --potential/--calculator the folder to create.")],
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Assays to run, and overrides such as stability.replicas=10; default: those of the config."
        ),
    ] = None,
    potential: Annotated[Path | None, typer.Option(help="A potential.safetensors to assay in a new folder.")] = None,
    calculator: Annotated[
        str | None, typer.Option(help="Anybody's ASE calculator, as package.module:Class(key=value, ...).")
    ] = None,
    python: Annotated[
        str | None, typer.Option(help="Run the calculator in this interpreter, such as ~/venvs/mace/bin/python.")
    ] = None,
    config: Annotated[
        str | None, typer.Option(help="YAML file or preset that gives data and assay settings for a new folder.")
    ] = None,
    own: Annotated[
        list[str] | None, typer.Option("--assay", help="An assay of your own, as my_module:MY_ASSAY; repeatable.")
    ] = None,
    oracle: Annotated[
        str | None, typer.Option(help="A calculator that is taken for the truth, for assays that need one.")
    ] = None,
    oracle_python: Annotated[str | None, typer.Option(help="Run the oracle in this interpreter.")] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Discard what the folder holds of another potential file or calculator.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Assay a trained potential, a potential file, or anybody's ASE calculator.

    Examples: `fireassay assay runs/mace`; `fireassay assay runs/mace stability stability.temperature=2000`;
    `fireassay assay runs/mace accuracy device=cpu dtype=float64`;
    `fireassay assay runs/emt accuracy --calculator ase.calculators.emt:EMT() --config cuau.yaml`.
    """
    with _reported():
        from fireassay.pipeline.assay import Request, run_assays

        request = Request(
            run,
            assays=[name for name in names or [] if "=" not in name],
            overrides=[name for name in names or [] if "=" in name],
            potential=potential,
            calculator=calculator,
            python=python,
            config=config,
            own=own or (),
            oracle=oracle,
            oracle_python=oracle_python,
            restart=restart,
            tell=_tell,
        )
        for path in run_assays(request, _progress(quiet)):
            typer.echo(path)


@app.command()
def simulate(
    potential: Annotated[
        str | None,
        typer.Argument(
            help="A run folder, a potential.safetensors, or a calculator as package.module:Class(key=value)."
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Settings such as temperature=300 'temperature=[300, 900]' duration=10000 barostat=isotropic; also "
            "device=, dtype= and threads=.",
            show_default=False,
        ),
    ] = None,
    start: Annotated[str | None, typer.Option(help="A file with the structure to start from.")] = None,
    index: Annotated[str, typer.Option(help="Frames of that file, as 0, -1 or : for all of them.")] = "0",
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for trajectories and tables.")] = Path(
        "simulation"
    ),
    python: Annotated[
        str | None, typer.Option(help="Run the calculator in this interpreter, such as ~/venvs/mace/bin/python.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Discard the simulation that the folder holds.")] = False,
    settings: Annotated[
        bool, typer.Option("--settings", help="Print all settings with their meaning and stop.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Run molecular dynamics with a trained potential, a potential file, or anybody's ASE calculator.

    Interrupted and repeated, the command goes on exactly where it stopped. Examples:
    `fireassay simulate runs/mace --start molecule.xyz temperature=300 duration=10000`;
    `fireassay simulate "ase.calculators.emt:EMT()" --start cu.xyz barostat=isotropic pressure=1 replicas=4`.
    """
    with _reported():
        from fireassay.pipeline.simulate import Order, described_settings, run_simulation

        if settings:
            typer.echo(described_settings(), nl=False)
            return
        if potential is None:
            raise InputError("name what moves the atoms: a run folder, a potential file, or a calculator")
        order = Order(potential, start, index, output, overrides or [], python, restart, _tell)
        for path in run_simulation(order, _progress(quiet)):
            typer.echo(path)


@app.command()
def protocol(
    name: Annotated[str | None, typer.Argument(help="A published protocol; without one they are listed.")] = None,
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Run folders, and overrides such as temperature=520 structure.replicas=3 dynamics.duration=2000.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for its runs and report; default protocols/NAME.")
    ] = None,
    oracle: Annotated[
        str | None, typer.Option(help="A calculator that is taken for the truth, as package.module:Class(key=value).")
    ] = None,
    oracle_python: Annotated[str | None, typer.Option(help="Run the oracle in this interpreter.")] = None,
    quiet: Quiet = False,
) -> None:
    """Put potentials through a published protocol: every task of every run, and one report.

    Tasks are the test splits of each run. Repeated, the command goes on where it was. Example:
    `fireassay protocol egraffbench runs/mace runs/nequip --oracle "ase.calculators.emt:EMT()"`.
    """
    with _reported():
        from fireassay.pipeline.protocol import PROTOCOLS, ProtocolOrder, run_protocol

        if name is None:
            for known, found in PROTOCOLS.items():
                typer.echo(f"{known:20s} {found.description}")
            return
        given = runs or []
        folders = [Path(run) for run in given if "=" not in run]
        order = ProtocolOrder(
            name,
            folders,
            output or Path("protocols") / name,
            [o for o in given if "=" in o],
            oracle,
            oracle_python,
            _tell,
        )
        typer.echo(f"report: {run_protocol(order, _progress(quiet))}")


@app.command("import")
def import_model(
    file: Annotated[Path, typer.Argument(help="A model file of mace-torch or of nequip.")],
    python: Annotated[str, typer.Option(help="The interpreter that has that package, such as venv/bin/python.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The potential's file; default NAME.safetensors here.")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="mace or nequip; default: by the file's ending.")] = None,
    check: Annotated[
        str | None, typer.Option(help="Frames on which the predictions are compared, besides those made up for it.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Compare on at most this many of the frames.")] = 20,
    timeout: Annotated[float, typer.Option(help="Seconds after which the other interpreter is given up.")] = 900.0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output.")] = False,
) -> None:
    """Turn an existing mace-torch or nequip model into a potential of fireassay with the same predictions.

    The file is opened in the other interpreter, never here. Example:
    `fireassay import MACE.model --python ~/venvs/mace/bin/python -o mace.safetensors --check test.xyz`.
    """
    with _reported():
        import json

        from fireassay.data.readers import read
        from fireassay.interop.imported import kind_of
        from fireassay.interop.mace import import_mace
        from fireassay.interop.nequip import import_nequip
        from fireassay.potential_file import save_potential

        importers = {"mace": import_mace, "nequip": import_nequip}
        name = kind or kind_of(file)
        if name not in importers:
            raise InputError(f"--kind {name} is unknown; known are {', '.join(importers)}")
        frames = read(check, index=f":{limit}", labels=False) if check else []
        imported = importers[name](file, python, frames, timeout)
        path = output or Path(f"{file.name.removesuffix(file.suffix)}.safetensors")
        if path.exists() and not force:
            raise InputError(f"{path} exists; name another file with --output, or overwrite it with --force")
        provenance = {"file": str(file), "versions": imported.versions, "agreement": imported.agreement._asdict()}
        save_potential(imported.potential, path, {"name": path.stem, "imported": json.dumps(provenance)})
        typer.echo(f"{path}: {imported.agreement}")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, one per potential.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The HTML file; figures/ and tables/ go beside it.")
    ] = Path("report.html"),
    title: Annotated[str | None, typer.Option(help="The report's title.")] = None,
    quiet: Quiet = False,
) -> None:
    """Write one self-contained HTML report on one or more runs, from their records alone."""
    with _reported():
        from fireassay.report.page import write_report

        typer.echo(write_report(runs, output, title=title, progress=_progress(quiet)))


@data_app.command("inspect")
def inspect_file(
    files: Annotated[
        list[str],
        typer.Argument(
            help="Data files, folders, patterns, or an embedded set such as 3bpa-xtb/train_300K; and overrides such as "
            "'data.keys={energy: energy_xtb}'."
        ),
    ],
    key: Keys = None,
    unit: Units = None,
    json: Annotated[bool, typer.Option("--json", help="JSON instead of tables.")] = False,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with pictures to this file: distributions, a map, leaks, splits.")
    ] = None,
    sample: Annotated[
        int | None, typer.Option(min=1, help="Take statistics from so many frames; of files beyond 256 MB from 5000.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Show keys, labels and their coverage, elements, periodicity, statistics, duplicates and suspicious units."""
    with _reported():
        from fireassay.data.inspect import inspect

        names, options = _reading(files, key, unit)
        if html is not None:
            from fireassay.pipeline.data_page import write_data_page

            typer.echo(write_data_page(names, html, options.keys, options.units, options.elements, _progress(quiet)))
            return
        source = names[0] if len(names) == 1 else names
        inspection = inspect(source, options.keys, options.units, options.elements, sample, _progress(quiet))
        typer.echo(inspection.to_json() if json else inspection.to_text())


@data_app.command("convert")
def convert_data(
    source: Annotated[str, typer.Argument(help="A data file, a folder, a pattern, or an embedded set.")],
    target: Annotated[
        Path, typer.Argument(help="x.xyz (also .gz, .xz), x.db, x.npz, or a name without suffix: a DeePMD folder.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="How it is read, as 'data.units={energy: kcal/mol}'.", show_default=False)
    ] = None,
    key: Keys = None,
    unit: Units = None,
    index: Annotated[str | None, typer.Option(help="Frames to take, as :100 or ::10.")] = None,
    split: Annotated[str | None, typer.Option(help="Parts with their shares, as train=0.8,test=0.2.")] = None,
    method: Annotated[str, typer.Option(help="random, blocks, group or temperature.")] = "random",
    seed: Annotated[int, typer.Option(help="Of the random splits.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Write data in another format, in eV and Å, every label to the last digit, whole or in splits.

    What stops a training stops here too: labels under another key or in another unit would be lost or wrong.
    """
    with _reported():
        from fireassay.data.convert import convert
        from fireassay.data.readers import read_checked

        options = _reading([source, *(overrides or [])], key, unit)[1]
        reading = read_checked(
            source, options.keys, options.units, index, elements=options.elements, accept=options.accept,
            progress=_progress(quiet), required=False,
        )  # fmt: skip
        written, notes = convert(reading, target, _shares(split), method, seed)
        for note in notes:
            _tell(note)
        for path, frames in written.items():
            typer.echo(f"{path}: {frames} frames")


@app.command()
def models(
    names: Annotated[
        list[str] | None, typer.Argument(help="Models to describe in detail; default: a line on each.")
    ] = None,
    time: Annotated[bool, typer.Option("--time", help="Also time each on a frame of 3BPA, here and now.")] = False,
    json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
    quiet: Quiet = False,
) -> None:
    """List the architectures: paper, size, how far an atom sees, laws that a published form breaks, speed."""
    with _reported():
        from fireassay.families import families, to_json, to_text

        found = families(names or (), time, _progress(quiet))
        typer.echo(to_json(found) if json else to_text(found, details=bool(names)))


@data_app.command("list")
def list_data() -> None:
    """List the embedded data sets and their splits."""
    with _reported():
        from fireassay.data.catalogue import EMBEDDED, splits

        for name, description in EMBEDDED.items():
            typer.echo(f"{name}: {description}")
            for split in splits(name):
                typer.echo(f"  {name}/{split}")


@data_app.command("make")
def make_data(
    name: Annotated[str, typer.Argument(help="3bpa-xtb or cuau-emt.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder; default ./NAME.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
) -> None:
    """Generate an embedded data set anew from its oracle (3bpa-xtb: about one core-hour, needs tblite)."""
    with _reported():
        from fireassay.simulation.generate import PLANS, generate

        if name not in PLANS:
            raise InputError(f"no embedded data set {name!r}; known are {', '.join(PLANS)}")
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        try:
            paths = generate(name, output or Path(name), workers)
        except ImportError as error:
            raise InputError(str(error)) from error
        for path in paths:
            typer.echo(path)


@presets_app.command("list")
def list_presets() -> None:
    """List the presets with what they reproduce."""
    with _reported():
        from fireassay.config import load_config, preset_names

        for name in preset_names():
            typer.echo(f"{name:32s} {' '.join(load_config(name).description.split())}")


@presets_app.command("show")
def show_preset(name: Annotated[str, typer.Argument(help="A preset's name.")]) -> None:
    """Print a preset's YAML, to be saved and edited."""
    with _reported():
        from fireassay.config import preset_text

        typer.echo(preset_text(name), nl=False)


@config_app.command("schema")
def schema() -> None:
    """Print the JSON schema of a configuration, for completion and checks in an editor."""
    with _reported():
        import json

        from fireassay.config import json_schema

        typer.echo(json.dumps(json_schema(), indent=1, ensure_ascii=False))


@config_app.command("validate")
def validate(
    config: Annotated[str, typer.Argument(help="A YAML file or a preset.")], overrides: Overrides = None
) -> None:
    """Check a configuration, its network included; exit code 2 and one line when something is wrong."""
    with _reported():
        from fireassay.config import load_config

        found = load_config(config, overrides or [])
        found.model.build(
            species=(1, 6, 8), average_neighbours=10.0, seed=found.seed
        )  # refuses what does not go together
        typer.echo(f"{config} is valid: {found.name}")


@config_app.command("show")
def show(config: Annotated[str, typer.Argument(help="A YAML file or a preset.")], overrides: Overrides = None) -> None:
    """Print a configuration with all defaults filled in."""
    with _reported():
        from fireassay.config import load_config, resolved_yaml

        typer.echo(resolved_yaml(load_config(config, overrides or [])), nl=False)


def main() -> None:
    """The entry point of the `fireassay` command."""
    prepare_threads()
    note = prepare_kernels()
    if note is not None and len(sys.argv) > 2:
        _tell(note)
    with contextlib.suppress(BrokenPipeError):
        sys.exit(app(standalone_mode=True))


if __name__ == "__main__":
    main()
