"""The main job on the embedded data set: two trainings, their assays, one report."""

from __future__ import annotations

from pathlib import Path

from fireassay.config import load_config
from fireassay.pipeline.assay import Request, run_assays
from fireassay.pipeline.folder import current
from fireassay.pipeline.train import run_training
from fireassay.progress import Progress
from fireassay.report.page import write_report

DEMO = ("demo-nequip", "demo-mace")
TITLE = "3BPA on the GFN2-xTB surface: NequIP and MACE through the fire"


def run_demo(output: Path, minutes: float, progress: Progress) -> Path:
    """Trains the two demo presets, assays both, and writes `output/report.html`; returns its path.

    Each training stops after half of `minutes`, or when its epochs are over. What is finished is not repeated.
    """
    folders = []
    for preset in DEMO:
        config = load_config(preset, [f"training.stopping.max_seconds={30.0 * minutes}"])
        folder = output / "runs" / config.name
        folders.append(folder)
        run_training(config, folder, progress)
        missing = [name for name in config.assays if not current(folder, name)]
        if missing:
            run_assays(Request(folder, missing), progress)
    return write_report(folders, output / "report.html", title=TITLE, progress=progress)
