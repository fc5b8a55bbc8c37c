"""Imports go strictly downwards, and nothing heavy is imported where it is not needed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "fireassay"
PAGE = (Path(__file__).parent.parent / "docs" / "architecture.md").read_text(encoding="utf-8")


def levels() -> dict[str, int]:
    """The rooms and their levels, from the table of docs/architecture.md."""
    rows = re.findall(r"^\| (\d) \| (.*?) \|", PAGE, re.MULTILINE)
    return {name: int(level) for level, names in rows for name in re.findall(r"`(\w+)`", names)}


def siblings() -> set[int]:
    """The levels whose rooms do not know each other."""
    return {int(level) for level in re.findall(r"^\| (\d) \|.*\| siblings;", PAGE, re.MULTILINE)}


LEVELS = levels()
SIBLINGS = siblings()
ONLY = {
    "nn": {"nn", "errors", "kernel_cache"},
    "models": {"nn", "data", "potential", "errors", "models"},
    "report": {
        "report",
        "records",
        "metrics",
        "statistics",
        "overrides",
        "units",
        "errors",
        "settings",
        "progress",
        "__init__",
    },
    "records": {"errors", "records"},
    "metrics": {"errors"},
    "statistics": {"errors", "statistics"},
}


def room(path: Path) -> str:
    """The top-level room or module that a file belongs to."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[int, str]]:
    """Line and dotted name of everything of ours that a file imports."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            if node.module and node.module.split(".")[0] == "fireassay":
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                found += [(node.lineno, name) for name in names]
        elif isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] == "fireassay"]
    return found


def violations(path: Path, own: str) -> list[str]:
    """What the file imports against the arrows."""
    wrong = []
    for line, name in imports(path):
        parts = name.split(".")
        target = parts[1] if len(parts) > 1 and (parts[1] in LEVELS) else "__init__"
        allowed = ONLY.get(own)
        sideways = LEVELS[target] == LEVELS[own] and target != own and LEVELS[own] in SIBLINGS
        upward = LEVELS[target] > LEVELS[own] or sideways
        sideways_model = own == "models" and parts[1:2] == ["models"] and path.name != "__init__.py"
        if upward or sideways_model or (allowed is not None and target not in allowed):
            wrong.append(f"{path.name}:{line} {own} imports {name}")
    return wrong


def test_every_room_has_a_level():
    rooms = {room(path) for path in SOURCE.rglob("*.py")}
    assert rooms <= set(LEVELS), f"rooms without a level: {rooms - set(LEVELS)}"
    assert not rooms & {"utils", "helpers", "common", "tools"}


def test_the_page_knows_every_room_and_nothing_else():
    rooms = {room(path) for path in SOURCE.rglob("*.py")}
    assert set(LEVELS) == rooms
    assert sorted(SIBLINGS) == [3, 4]
    described = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) - {"Structure", "Graph"}
    assert {name for name in described if name[0].islower()} <= rooms
    for path in re.findall(r"`((?:\w+/)+\w+\.py)`", PAGE):
        assert "NAME" in path or (SOURCE / path).is_file() or (SOURCE.parents[1] / path).is_file(), path


def test_imports_go_strictly_down():
    wrong = [message for path in SOURCE.rglob("*.py") for message in violations(path, room(path))]
    assert wrong == []


@pytest.mark.parametrize(
    ("own", "line"),
    [
        ("data", "from fireassay.potential import Potential"),
        ("models", "from fireassay.models.mace import MACE"),
        ("nn", "from fireassay.data.graph import Graph"),
        ("training", "from fireassay.simulation import run"),
        ("report", "from fireassay.potential import Potential"),
    ],
)
def test_a_planted_upward_import_is_found(tmp_path, own, line):
    planted = tmp_path / "planted.py"
    planted.write_text(line + "\n")
    assert violations(planted, own)


@pytest.mark.parametrize("module", ["fireassay", "fireassay.cli"])
def test_light_modules_do_not_import_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'plotly' in sys.modules or 'ase' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_report_does_not_import_torch():
    code = "import sys, fireassay.report.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_kernels_are_whole():
    """A function that a kernel calls and does not contain would round differently before and after it is cached."""
    files = sorted((SOURCE / "nn").glob("*.py"))
    assert sum(file.read_text().count("@njit(forceinline=True)") for file in files) > 50
    assert [file.name for file in files if "@njit\n" in file.read_text()] == []
