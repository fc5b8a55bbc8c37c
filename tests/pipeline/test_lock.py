"""One owner per folder: alive ones are respected and named, dead ones give way."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fireassay.errors import InputError
from fireassay.pipeline import lock
from fireassay.pipeline.lock import LOCK, owned

HOLD = """
import sys, time, pathlib
from fireassay.pipeline.lock import owned
with owned(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """A process that holds the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_folder_is_free_again_afterwards(tmp_path):
    for _ in range(2):
        with owned(tmp_path / "run"):
            assert (tmp_path / "run" / LOCK).exists()
    assert list((tmp_path / "run").iterdir()) == []


def test_an_error_inside_frees_the_folder(tmp_path):
    with pytest.raises(RuntimeError), owned(tmp_path):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_living_owner_is_named_and_a_killed_one_gives_way(tmp_path):
    process = holder(tmp_path)
    with pytest.raises(InputError, match=rf"in use by process {process.pid} on ") as caught, owned(tmp_path):
        pass
    assert "\n" not in str(caught.value)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with owned(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text(encoding="utf-8"))["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_the_same_process_does_not_own_twice(tmp_path):
    with owned(tmp_path), pytest.raises(InputError, match="in use"), owned(tmp_path):
        pass


def elsewhere(folder: Path, age: float, **changes: object) -> None:
    """A lock as another machine's process would leave it."""
    content = {"host": "elsewhere", "boot": "b", "space": "s", "pid": os.getpid(), "began": "1", "nonce": "n"}
    path = folder / LOCK
    path.write_text(json.dumps({**content, **changes}), encoding="utf-8")
    os.utime(path, (time.time() - age, time.time() - age))


def test_an_owner_on_another_machine_counts_while_it_gives_signs_of_life(tmp_path):
    elsewhere(tmp_path, age=20)
    with pytest.raises(InputError, match="elsewhere"), owned(tmp_path):
        pass
    elsewhere(tmp_path, age=lock.SILENCE + 5)
    with owned(tmp_path):
        pass


def test_a_machine_that_was_restarted_has_no_old_owners(tmp_path):
    own = lock._identity()
    elsewhere(tmp_path, age=1, host=own["host"], boot="the one before", space=own["space"])
    with owned(tmp_path):
        pass


def test_another_process_with_the_same_number_is_not_the_owner(tmp_path):
    own = lock._identity()
    elsewhere(tmp_path, age=1, host=own["host"], boot=own["boot"], space=own["space"], began="7")
    with owned(tmp_path):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", "null"])
def test_a_damaged_lock_gives_way_after_a_while(tmp_path, content):
    (tmp_path / LOCK).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="in use"), owned(tmp_path):
        pass
    os.utime(tmp_path / LOCK, (0, 0))
    with owned(tmp_path):
        pass


def test_without_hard_links_there_is_still_one_owner(tmp_path, monkeypatch):
    def refused(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(lock.os, "link", refused)
    with owned(tmp_path), pytest.raises(InputError, match="in use"), owned(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_owner_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.05)
    with owned(tmp_path):
        os.utime(tmp_path / LOCK, (0, 0))
        end = time.monotonic() + 10
        while (tmp_path / LOCK).stat().st_mtime == 0 and time.monotonic() < end:
            time.sleep(0.02)
        assert time.time() - (tmp_path / LOCK).stat().st_mtime < 60


def contend(folder: str, barrier, owners) -> None:
    barrier.wait()
    try:
        with owned(Path(folder)):
            with owners.get_lock():
                owners.value += 1
            time.sleep(1.0)
    except InputError:
        pass


def test_of_several_that_take_over_at_once_one_succeeds(tmp_path):
    elsewhere(tmp_path, age=1000)
    context = multiprocessing.get_context("fork")
    barrier, owners = context.Barrier(8), context.Value("i", 0)
    processes = [context.Process(target=contend, args=(str(tmp_path), barrier, owners)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert owners.value == 1


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="cannot use"), owned(tmp_path / "file"):
        pass
