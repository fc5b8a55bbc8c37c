"""Frames on disk are those of the file: same batches, same training, little memory."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from fireassay.data.baseline import fit_e0, statistics
from fireassay.data.datasets import Dataset
from fireassay.data.fingerprint import fingerprint
from fireassay.data.ingest import is_large
from fireassay.data.readers import read, read_checked
from fireassay.data.store import StoredFrames, StoreWriter, chosen, remove_leftovers, sample
from fireassay.data.writing import write
from fireassay.errors import InputError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FIREASSAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


SOURCES = ("3bpa-xtb/train_300K", "cuau-emt/train_300K")


@pytest.mark.parametrize("source", SOURCES)
def test_a_store_gives_the_structures_back(source: str) -> None:
    frames = read_checked(source, on_disk=True).structures
    assert isinstance(frames, StoredFrames)
    plain = read(source)
    assert len(frames) == len(plain)
    assert fingerprint(frames) == fingerprint(plain)
    assert [s.provenance for s in frames] == [s.provenance for s in plain]
    part = chosen(frames, [5, 3, 8])
    assert [s.energy for s in part] == [plain[k].energy for k in (5, 3, 8)]
    assert [s.energy for s in part[1:]] == [plain[k].energy for k in (3, 8)]


@pytest.mark.parametrize("source", SOURCES)
def test_batches_from_disk_are_those_from_memory(source: str) -> None:
    plain, frames = read(source), read_checked(source, on_disk=True).structures
    order = np.random.default_rng(0).permutation(len(plain))[:60]
    one = Dataset([plain[k] for k in order], 5.0)
    other = Dataset(chosen(frames, order), 5.0)
    assert (one.n_atoms, one.n_edges, one.species) == (other.n_atoms, other.n_edges, other.species)
    assert one.labelled == other.labelled
    assert bool((one.atomic_numbers == other.atomic_numbers).all())
    for a, b in zip(one.labels, other.labels, strict=True):
        assert bool((a == b).all())
    for indices in ([7], [3, 1, 59, 0], range(60)):
        a, b = one.select(indices), other.select(indices)
        tensors = [(*batch.graph, *batch.labels, batch.atoms, batch.structures) for batch in (a, b)]
        for x, y in zip(*tensors, strict=True):
            assert (x is None) == (y is None)
            if x is not None and y is not None:
                assert x.dtype == y.dtype
                assert bool((x == y).all())
    assert [g.tolist() for g in one.batches_by_edges(3000)] == [g.tolist() for g in other.batches_by_edges(3000)]


def test_statistics_and_fits_do_not_see_the_difference() -> None:
    plain, frames = read(SOURCES[1]), read_checked(SOURCES[1], on_disk=True).structures
    assert statistics(frames) == statistics(plain)
    assert fit_e0(frames) == fit_e0(plain)


def test_a_store_is_made_once_for_a_file_and_its_date(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "a.xyz"
    write(read(SOURCES[0], index=":20"), path)
    read_checked(path, on_disk=True)
    (folder,) = (cache / "frames").iterdir()
    before = (folder / "positions.f8").stat().st_mtime_ns
    read_checked(path, on_disk=True)
    assert (folder / "positions.f8").stat().st_mtime_ns == before
    read_checked(path, units={"length": "Å"}, on_disk=True)
    assert len(list((cache / "frames").iterdir())) == 2
    os.utime(path, ns=(1, 1))
    read_checked(path, on_disk=True)
    assert len(list((cache / "frames").iterdir())) == 3


def test_what_is_wrong_late_in_a_file_is_found_and_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "a.xyz"
    write(read(SOURCES[0], index=":20"), path)
    path.write_text(path.read_text() + "2\nProperties=species:S:1:pos:R:3 energy=-1\nH 0 0 0\n")
    with pytest.raises(InputError, match="announces 2 atoms but the file ends after 1"):
        read_checked(path, on_disk=True)
    assert list((cache / "frames").iterdir()) == []


def test_findings_of_the_keys_are_kept_and_stop_again(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    write(read(SOURCES[0], index=":20"), path)
    path.write_text(path.read_text().replace(" energy=", " REF_energy=-5 energy="))
    for _ in range(2):
        with pytest.raises(InputError, match="two levels of theory"):
            read_checked(path, on_disk=True)
    assert len(read_checked(path, {"energy": "energy"}, on_disk=True).structures) == 20
    with pytest.raises(InputError, match="has no key 'absent' for energy"):
        read_checked(path, {"energy": "absent"}, on_disk=True)


def test_nan_in_forces_stays_a_missing_force(tmp_path: Path) -> None:
    rows = "C 0 0 0 nan 0 0\nO 0 0 1.1 0 0 0.5\n"
    head = "2\nProperties=species:S:1:pos:R:3:forces:R:3 energy="
    (tmp_path / "a.xyz").write_text(f"{head}-1\n{rows}{head}nan\n{rows}")
    first, second = read_checked(tmp_path / "a.xyz", on_disk=True).structures
    assert first.forced.tolist() == [False, True]
    assert second.energy is None


def test_samples_are_runs_of_neighbours() -> None:
    frames = read(SOURCES[0])
    found = [s.provenance.frame for s in sample(frames, 100, run=10)]
    assert len(found) == 100
    assert found[:10] == list(range(10))
    assert found[-10:] == list(range(490, 500))
    assert sample(frames, 1000) == frames


def test_only_large_files_are_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.xyz"
    write(read(SOURCES[0], index=":20"), path)
    assert not is_large(path)
    monkeypatch.setattr("fireassay.data.ingest.LARGE", 1000)
    assert is_large(path)
    assert is_large([path, path])
    assert is_large(tmp_path)
    (tmp_path / "b.npz").write_bytes(path.read_bytes())
    assert not is_large(tmp_path)


def test_a_store_that_is_not_closed_is_none(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "store")
    writer.add(read(SOURCES[1], index=":3"))
    assert not (tmp_path / "store").exists()
    writer.discard()
    assert list(tmp_path.iterdir()) == [] or [p.name for p in tmp_path.iterdir()] == ["cache"]


def test_training_from_disk_equals_training_from_memory(project) -> None:
    from safetensors.numpy import load_file

    runs = []
    for on_disk in (False, True):
        folder = project.root / f"run-{on_disk}"
        project.train(f"data.on_disk={str(on_disk).lower()}", folder=folder)
        runs.append(load_file(folder / "potential.safetensors"))
    assert runs[0].keys() == runs[1].keys()
    assert all(np.array_equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_files_of_other_units_keep_their_own(tmp_path: Path) -> None:
    frames = read(SOURCES[0], index=":20")
    write(frames, tmp_path / "ev.xyz")
    text = (tmp_path / "ev.xyz").read_text()
    (tmp_path / "declared.xyz").write_text(text.replace(" energy=", " energy_unit=kcal/mol energy="))
    files = [tmp_path / "ev.xyz", tmp_path / "declared.xyz"]
    for on_disk in (False, True):
        found = read_checked(files, on_disk=on_disk, accept=["units"]).structures
        assert [s.energy for s in found[:20]] == [s.energy for s in frames]
        first = found[20].energy
        assert first is not None
        assert frames[0].energy is not None
        assert first == pytest.approx(frames[0].energy * 0.0433641042418)


def test_units_are_asked_of_each_files_own(tmp_path: Path) -> None:
    frames = read(SOURCES[0], index=":40")
    write(frames, tmp_path / "ev.xyz")
    text = (tmp_path / "ev.xyz").read_text()
    (tmp_path / "wrong.xyz").write_text(text.replace(" energy=", " energy_unit=kcal/mol energy="))
    with pytest.raises(InputError, match=r"wrong.xyz: labels look like eV and Å.* not like kcal/mol"):
        read([tmp_path / "ev.xyz", tmp_path / "wrong.xyz"])


def test_a_store_of_a_pattern_or_a_folder_knows_its_files(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "data").mkdir()
    write(read(SOURCES[0], index=":5"), tmp_path / "data" / "a.xyz")
    for source in (str(tmp_path / "data" / "*.xyz"), str(tmp_path / "data")):
        (tmp_path / "data" / "b.xyz").unlink(missing_ok=True)
        assert len(read_checked(source, on_disk=True).structures) == 5
        write(read(SOURCES[0], index="5:8"), tmp_path / "data" / "b.xyz")
        assert len(read_checked(source, on_disk=True).structures) == 8


def test_a_second_process_that_stores_the_same_frames_takes_those_of_the_first(tmp_path: Path) -> None:
    frames = read(SOURCES[1], index=":3")
    first, second = StoreWriter(tmp_path / "store"), StoreWriter(tmp_path / "store")
    second._part = tmp_path / "store.other.part"
    (tmp_path / "store.other.part").mkdir()
    for writer in (first, second):
        writer.add(frames)
    meta = {"source": "x"}
    first.close(meta)
    assert len(second.close(meta)) == 3
    assert not (tmp_path / "store.other.part").exists()


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    for name in (f"a.{os.getpid()}.part", "b.999999999.part"):
        (tmp_path / name).mkdir()
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.glob("*.part")] == [f"a.{os.getpid()}.part"]


@pytest.mark.parametrize("count", [1, 10, 29])
def test_samples_smaller_than_a_run(count: int) -> None:
    frames = read(SOURCES[0], index=":30")
    assert len(sample(frames, count)) == count


def test_an_lmdb_is_stored_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lmdb")
    from format_files import aselmdb

    monkeypatch.setattr("fireassay.data.formats.asedb._ROWS", 5)
    aselmdb(tmp_path / "a.aselmdb")
    assert fingerprint(read_checked(tmp_path / "a.aselmdb", on_disk=True).structures) == fingerprint(
        read(tmp_path / "a.aselmdb")
    )
