from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fireassay.cli import app
from fireassay.data.environments import environment_map, fingerprints
from fireassay.data.readers import read
from fireassay.data.writing import write
from fireassay.pipeline.data_page import write_data_page
from samples import shared


def words(path: Path) -> str:
    text = re.sub(r"<script.*?</script>|<style.*?</style>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))


def figures(path: Path) -> dict[str, list]:
    content = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)
    assert content is not None
    return json.loads(content[1])["figures"]


def test_a_page_on_an_alloy(tmp_path: Path) -> None:
    path = write_data_page(["cuau-emt/train_300K"], tmp_path / "page.html")
    said = words(path)
    assert "100 frames of 32 atoms: Cu, Au" in said
    assert "What can be asked of this data" in said
    assert "data.validation={" in said
    found = figures(path)
    assert set(found) == {"figure-labels", "figure-distances", "figure-cells", "figure-composition", "figure-map"}
    assert {plot["title"] for plot in found["figure-distances"]} == {"Cu-Au", "Au-Au", "Cu-Cu"}
    assert len(found["figure-map"][0]["traces"][0]["x"]) == 100
    assert "tables/" not in said


def test_leaks_between_files_are_counted(tmp_path: Path) -> None:
    frames = read("3bpa-xtb/train_300K", index=":60")
    write(frames[:40], tmp_path / "train.xyz")
    write([*frames[35:40], *frames[50:]], tmp_path / "leaky.xyz")
    write(read("3bpa-xtb/test_1200K", index=":20"), tmp_path / "hot.xyz")
    files = [str(tmp_path / name) for name in ("train.xyz", "leaky.xyz", "hot.xyz")]
    said = words(write_data_page(files, tmp_path / "page.html"))
    assert "leaky.xyz shares 5 frames with train.xyz" in said
    assert re.search(r"leaky.xyz 5 0 [\d.]+ shares frames", said)
    assert re.search(r"hot.xyz 0 0 [\d.]+ apart", said)


def test_an_outlier_is_named(tmp_path: Path) -> None:
    frames = read("3bpa-xtb/train_300K", index=":80")
    odd = replace(frames[3], positions=1.1 * frames[3].positions)
    found = environment_map(fingerprints([*frames, odd]))
    assert int(np.argmax(found.outlying)) == 80
    assert found.points.shape == (81, 2)


def test_what_stops_training_stands_first(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    write(read("3bpa-xtb/train_300K", index=":40"), path)
    path.write_text(path.read_text().replace(" energy=", " REF_energy=-5 energy="))
    result = CliRunner().invoke(app, ["data", "inspect", str(path), "--html", str(tmp_path / "page.html"), "-q"])
    assert result.exit_code == 0, result.output
    said = words(tmp_path / "page.html")
    assert "What stops training" in said
    assert "two levels of theory" in said


@pytest.mark.parametrize("content", ["", "1\n\nH 0 0 0\n"])
def test_files_without_much_in_them(content: str, tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    path.write_text(content)
    result = CliRunner().invoke(app, ["data", "inspect", str(path), "--html", str(tmp_path / "page.html"), "-q"])
    assert result.exit_code == 2
    assert not (tmp_path / "page.html").exists()


def test_a_few_labelled_atoms(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    path.write_text("1\nenergy=-1.0\nH 0 0 0\n2\nenergy=-3.0\nH 0 0 0\nH 0 0 0.8\n")
    said = words(write_data_page([str(path)], tmp_path / "page.html"))
    assert "2 frames of 1 to 2 atoms: H" in said


def test_real_files_that_share_frames(tmp_path: Path) -> None:
    files = [str(shared(f"3bpa/{name}.xyz.xz")) for name in ("train_300K", "train_mixedT")]
    assert "train_mixedT.xyz.xz shares 31 frames with train_300K.xyz.xz" in words(
        write_data_page(files, tmp_path / "page.html")
    )
