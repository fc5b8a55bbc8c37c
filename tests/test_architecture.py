"""Imports go strictly downwards, and nothing heavy is imported where it is not needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "fireassay"
LEVELS: dict[str, int] = {
    **dict.fromkeys(
        [
            "data",
            "nn",
            "metrics",
            "records",
            "units",
            "errors",
            "settings",
            "progress",
            "allocator",
            "presets",
            "__init__",
        ],
        0,
    ),
    "potential": 1,
    **dict.fromkeys(["models", "kernels"], 2),
    **dict.fromkeys(["training", "simulation", "uncertainty", "interop"], 3),
    **dict.fromkeys(["assays", "testing", "families"], 4),
    **dict.fromkeys(["report", "study"], 5),
    **dict.fromkeys(["cli", "config", "pipeline", "__main__"], 6),
}
ONLY = {
    "nn": {"nn", "errors"},
    "models": {"nn", "data", "potential", "errors", "models"},
    "report": {"report", "records", "metrics", "units", "errors", "settings", "progress", "__init__"},
    "records": {"errors"},
    "metrics": {"errors"},
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
        upward = LEVELS[target] > LEVELS[own] or (LEVELS[target] == LEVELS[own] and target != own and LEVELS[own] == 3)
        sideways_model = own == "models" and parts[1:2] == ["models"] and path.name != "__init__.py"
        if upward or sideways_model or (allowed is not None and target not in allowed):
            wrong.append(f"{path.name}:{line} {own} imports {name}")
    return wrong


def test_every_room_has_a_level():
    rooms = {room(path) for path in SOURCE.rglob("*.py")}
    assert rooms <= set(LEVELS), f"rooms without a level: {rooms - set(LEVELS)}"
    assert not rooms & {"utils", "helpers", "common", "tools"}


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
