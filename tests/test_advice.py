"""What messages tell the user to do works when it is typed: keys, flags and verbs exist, and quoted overrides help."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from ase import Atoms
from ase.io import read as read_ase
from ase.io import write

from fireassay.assays import ASSAYS
from fireassay.cli import app
from fireassay.config import Config, load_config
from fireassay.data.advice import keys_option, units_option
from fireassay.errors import InputError
from fireassay.overrides import with_overrides
from fireassay.settings import _known_keys

SOURCE = Path(__file__).parents[1] / "src" / "fireassay"
KEY = re.compile(r"(?<![\w./`-])([a-z_]+(?:\.[a-z_0-9]+)+)=")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
VERB = re.compile(r"(?:`|with |by |run |try |: )fireassay ([a-z]+)")
ELSEWHERE = {"--index-url", "--head", "--nproc-per-node"}  # of pip, mace-torch and torchrun


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """The texts of a file that are no docstrings, with {} for what is filled in."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents | inside:
            yield node.lineno, node.value


TEXTS = [(path, line, text) for path in sorted(SOURCE.rglob("*.py")) for line, text in texts(path)]


def options(command: Any) -> set[str]:
    found = {option for parameter in command.params for option in parameter.opts}
    for other in getattr(command, "commands", {}).values():
        found |= options(other)
    return found


def test_keys_that_messages_name_exist():
    named = [(path, line, match[1]) for path, line, text in TEXTS for match in KEY.finditer(text)]
    assert len({key for _, _, key in named}) >= 10
    for path, line, key in named:
        first, *rest = key.split(".")
        schema = ASSAYS[first].settings if first in ASSAYS else Config
        *above, last = rest if first in ASSAYS else (first, *rest)
        known = _known_keys(schema, above)
        assert last in known or above == ["model"], f"{path}:{line}: {key} is none of {known}"


def test_flags_that_messages_name_exist():
    known = options(typer.main.get_command(app)) | ELSEWHERE
    for path, line, text in TEXTS:
        for flag in FLAG.findall(text):
            assert flag in known, f"{path}:{line}: {flag}"


def test_verbs_that_messages_name_exist():
    commands: Any = typer.main.get_command(app)
    commands = commands.commands
    assert sum(len(VERB.findall(text)) for _, _, text in TEXTS) > 4
    for path, line, text in TEXTS:
        for verb in VERB.findall(text):
            assert verb in commands, f"{path}:{line}: {verb}"


@pytest.mark.parametrize(
    ("keys", "override"),
    [
        ({"energy": "energy_xtb"}, '"data.keys={energy: energy_xtb}"'),
        ({"forces": None, "stress": "my stress"}, '"data.keys={forces: null, stress: my stress}"'),
        ({"energy": "E: total"}, "\"data.keys={energy: 'E: total'}\""),
        ({"energy": "yes", "forces": "1"}, "\"data.keys={energy: yes, forces: '1'}\""),
    ],
)
def test_an_option_is_what_a_shell_and_yaml_make_of_it(keys, override):
    assert keys_option(keys) == override
    (typed,) = shlex.split(override)
    assert with_overrides({"data": {}}, [typed]) == {"data": {"keys": keys}}


def test_units_come_back_as_they_are():
    (typed,) = shlex.split(units_option({"energy": "kcal/mol", "stress": "-eV/Å^3", "forces": "Hartree/Bohr"}))
    units = with_overrides({"data": {}}, [typed])["data"]["units"]
    assert units == {"energy": "kcal/mol", "stress": "-eV/Å^3", "forces": "Hartree/Bohr"}


def advised(message: str) -> list[str]:
    """The overrides that a message names, as a shell gives them to us: quoted ones, and words with an =."""
    quoted = re.findall(r'"([a-z_.]+=[^"]*)"', message)
    words = re.findall(r"(?<![\w\".])([a-z_]+(?:\.[a-z_0-9]+)+=[\w./-]+)", message)
    return [*quoted, *words]


def frames_of(project, name: str) -> list[Atoms]:
    return read_ase(project.root / name, ":")


def rewritten(project, change) -> None:
    for name in ("train.xyz", "hot.xyz"):
        write(project.root / name, [relabelled(atoms, change) for atoms in frames_of(project, name)], format="extxyz")


def relabelled(atoms, change) -> Atoms:
    """The same frame with its labels under names that `change` may alter."""
    energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
    atoms.calc = None
    atoms.info |= {"energy": energy, "stress": stress}
    atoms.arrays["forces"] = forces
    change(atoms)
    return atoms


def renamed(atoms) -> None:
    atoms.info["energy_emt"], atoms.arrays["forces_emt"] = atoms.info.pop("energy"), atoms.arrays.pop("forces")


def half_spin(atoms) -> None:
    atoms.info["spin"] = 0


def charges_that_disagree(atoms) -> None:
    atoms.info |= {"charge": 0, "total_charge": 1}


def some_charged(atoms) -> None:
    atoms.info["charge"] = int(atoms.info["energy"] > 0.3)


def no_energy(atoms) -> None:
    del atoms.info["energy"]


@pytest.mark.parametrize("change", [renamed, half_spin, charges_that_disagree, some_charged, no_energy])
def test_a_training_that_is_refused_runs_as_advised(project, change):
    """Each override that a message names leads to a training, if need be by way of another message."""
    rewritten(project, change)
    with pytest.raises(InputError) as caught:
        project.train()
    followed(project, str(caught.value), [])


def followed(project, message: str, done: list[str]) -> None:
    overrides = [override for override in advised(message) if "KEY" not in override]
    assert overrides, message
    assert len(done) < 3, done
    for number, override in enumerate(overrides):
        folder = project.root / f"run-{len(done)}-{number}"
        try:
            project.train(*done, override, folder=folder)
        except InputError as error:
            followed(project, str(error), [*done, override])


@pytest.mark.parametrize("file", ["kcal.xyz", "bohr.xyz"])
def test_units_are_read_as_advised(project, file):
    """Ethanol-like molecules in other units, that a training refuses or an inspection sees."""
    from fireassay.data.readers import read

    frames = read_ase(SOURCE / "data/embedded/3bpa-xtb/train_300K.xyz.xz", ":40")
    for atoms in frames:
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = None
        if file == "kcal.xyz":
            atoms.info["energy"], atoms.arrays["forces"] = energy / 0.0433641, forces / 0.0433641
        else:
            atoms.positions /= 0.529177
            atoms.info["energy"], atoms.arrays["forces"] = energy / 27.2114, forces / 27.2114 * 0.529177
    write(project.root / file, frames, format="extxyz")
    with pytest.raises(InputError) as caught:
        read(project.root / file)
    right, accepted = advised(str(caught.value))
    for override in (right, accepted):
        data = load_config("compare-painn", [f"data.train={project.root / file}", override]).data
        assert len(read(data.train, units=data.units, accept=data.accept)) == 40
    found = read(project.root / file, units=load_config("compare-painn", ["data.train=x", right]).data.units)
    expected = read("3bpa-xtb/train_300K", index=":40")
    np.testing.assert_allclose(found[0].forces, expected[0].forces, rtol=1e-4, atol=1e-5)


def test_the_raw_error_log_is_there_after_what_is_advised(project):
    from fireassay.training.error_log import raw_errors

    project.train()
    with pytest.raises(InputError) as caught:
        raw_errors(project.run)
    project.train(*advised(str(caught.value)), restart=True)
    assert raw_errors(project.run).shape[0] == 2


def test_a_potential_without_isolated_atoms_trains_as_advised(project):
    with pytest.raises(InputError) as caught:
        project.train("baseline.e0=isolated")
    project.train(*[o for o in advised(str(caught.value)) if "FILE" not in o])
