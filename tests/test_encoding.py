"""Text files are UTF-8, whatever the locale says."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "fireassay"
TEXT = {"read_text", "write_text", "open"}


def calls(path: Path) -> list[tuple[int, str]]:
    """Line and text of every call that opens a text file without naming its encoding."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        if name not in TEXT or owner in ("os", "safetensors", "tarfile", "lmdb"):
            continue
        modes = [a.value for a in [*node.args, *(k.value for k in node.keywords)] if isinstance(a, ast.Constant)]
        binary = any(isinstance(mode, str) and "b" in mode and len(mode) <= 3 for mode in modes)
        named = any(keyword.arg == "encoding" for keyword in node.keywords)
        imported = name != "open" and isinstance(node.func, ast.Name)  # records.read_text and write_text
        if not (binary or named or imported):
            found.append((node.lineno, ast.unparse(node)))
    return found


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_every_text_file_is_opened_as_utf_8(path):
    assert calls(path) == []


def test_the_search_finds_what_it_looks_for(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text(
        "path.read_text()\nopen(path)\npath.open('w')\nopen(path, 'rb')\npath.write_text(t, encoding='utf-8')\n"
    )
    assert [line for line, _ in calls(bad)] == [1, 2, 3]


@pytest.mark.parametrize("command", [["presets", "show", "egraffbench-11-nequip"], ["models"], ["report"]])
def test_commands_run_in_an_ascii_locale(project, command):
    if command == ["report"]:
        project.train("name=mine")
        project.assay("accuracy")
        command = ["report", str(project.run), "-o", str(project.root / "report.html"), "-q"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHONUTF8"))}
    environment |= {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "fireassay", *command],
        cwd=project.root,
        env=environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
