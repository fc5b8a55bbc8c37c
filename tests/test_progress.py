"""Progress in a log file: few lines, the last of which says where the work ended."""

from __future__ import annotations

import pytest

from fireassay.progress import Console


def shown(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_a_log_has_the_beginning_and_the_end(capsys: pytest.CaptureFixture[str]):
    progress = Console()
    progress.start("training", 100)
    for _ in range(100):
        progress.advance(1, "31 meV/Å")
    progress.advance(0, "30 meV/Å")
    progress.stop()
    progress.stop()
    assert shown(capsys) == ["training: 0/100", "training: 100/100 (100 %), ETA 00:00:00  30 meV/Å"]


def test_work_that_is_longer_than_thought_neither_floods_the_log_nor_passes_its_end(
    capsys: pytest.CaptureFixture[str],
):
    progress = Console()
    progress.start("training", 100)
    for _ in range(150):
        progress.advance()
    progress.stop()
    assert shown(capsys) == ["training: 0/100", "training: 150/150 (100 %), ETA 00:00:00"]


def test_what_is_interrupted_says_how_far_it_came(capsys: pytest.CaptureFixture[str]):
    progress = Console()
    progress.start("relaxation", 2000, 5)
    progress.advance(15)
    progress.stop()
    assert shown(capsys)[-1].startswith("relaxation: 20/2000 (1 %), ETA ")


def test_steps_outside_of_any_work_are_not_added_to_the_last(capsys: pytest.CaptureFixture[str]):
    progress = Console()
    progress.start("probes", 10)
    progress.advance(10)
    progress.stop()
    progress.advance(60)
    progress.stop()
    assert shown(capsys) == ["probes: 0/10", "probes: 10/10 (100 %), ETA 00:00:00"]
