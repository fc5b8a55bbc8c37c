"""The how-to "Add an assay" does what it says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from fireassay.assays.assay import Need
from fireassay.report import page
from fireassay.report.sections import KINDS
from pages import ROOT, blocks

PAGE = (ROOT / "docs" / "how-to" / "add-an-assay.md").read_text(encoding="utf-8")
FILES = blocks("add-an-assay.md")


def fireassay(folder: Path, *arguments: object, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ if path is None else {**os.environ, "PYTHONPATH": str(path)}
    command = [sys.executable, "-c", "from fireassay.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def trained(project):
    """A run folder with the page's module in the current folder."""
    project.train()
    (project.root / "breathing.py").write_text(FILES["breathing.py"], encoding="utf-8")
    return project


def test_an_assay_of_ones_own_runs_as_printed(trained):
    done = fireassay(trained.root, "assay", trained.run, "--assay", "breathing:BREATHING", "breathing.points=7", "-q")
    assert done.returncode == 0, done.stderr
    content = json.loads((trained.run / "assays" / "breathing.json").read_text(encoding="utf-8"))
    split = content["result"]["splits"]["hot"]
    assert split["stiffness"]["unit"] == "eV/atom"
    assert np.isfinite(split["stiffness"]["value"])
    assert split["energies"]["shape"] == [4, 7]
    assert list(content["frames"]) == ["hot"]


def test_its_report_has_a_chapter_with_units(trained):
    assert fireassay(trained.root, "assay", trained.run, "--assay", "breathing:BREATHING", "-q").returncode == 0
    done = fireassay(trained.root, "report", trained.run, "-q")
    assert done.returncode == 0, done.stderr
    html = (trained.root / "report.html").read_text(encoding="utf-8")
    assert 'id="assay-breathing"' in html
    rows = (trained.root / "tables" / "breathing.csv").read_text(encoding="utf-8")
    assert "splits.hot.stiffness" in rows
    assert "eV/atom" in rows


def test_the_section_of_the_page_makes_its_chapter(trained, monkeypatch):
    assert fireassay(trained.root, "assay", trained.run, "--assay", "breathing:BREATHING", "-q").returncode == 0
    records, section = ModuleType("fireassay.records.breathing"), ModuleType("breathing_section")
    monkeypatch.setitem(sys.modules, records.__name__, records)
    exec(FILES["breathing.py"], vars(records))
    exec(FILES["src/fireassay/report/sections/breathing.py"], vars(section))
    monkeypatch.setattr(page, "SECTIONS", {"breathing": section.SECTION})
    monkeypatch.setattr(page, "KINDS", {**KINDS, "breathing": section.SECTION.kind})
    output = page.write_report([trained.run], trained.root / "own.html")
    assert 'id="table-breathing"' in output.read_text(encoding="utf-8")
    rows = (trained.root / "tables" / "breathing.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0] == "potential,split,stiffness [eV/atom]"
    assert len(rows) == 2


def test_the_table_of_needs_is_complete():
    named = set(re.findall(r"`([A-Z_]+)`", PAGE))
    assert {need.name for need in Need} <= named
