from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fireassay.data.datasets import Dataset
from fireassay.errors import InputError
from fireassay.potential import Baseline
from fireassay.records import ErrorTrajectory
from fireassay.training.checkpoint import load_checkpoint, load_weights
from fireassay.training.error_log import raw_errors
from fireassay.training.evaluate import evaluate
from fireassay.training.fit import FitResult, fit
from fireassay.training.loop import Diverged, Loop
from fireassay.training.recipe import Checkpointing, ErrorLogging, Loss, Recipe
from fireassay.training.terms import Weights
from training.toy_frames import CUTOFF, labelled_frames, network


def recipe(**changes: Any) -> Recipe:
    return Recipe.model_validate({"epochs": 10, "batch_size": 4, "optimiser": {"lr": 0.01}, **changes})


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def trained(folder: Path, train: Dataset, validation: Dataset | None, **changes: Any) -> tuple[Baseline, FitResult]:
    potential = network()
    return potential, fit(potential, train, validation, recipe(**changes), folder)


def test_it_learns_and_returns_the_best_weights(tmp_path: Path, train: Dataset, validation: Dataset) -> None:
    potential, result = trained(tmp_path, train, validation, epochs=40, ema={"decay": 0.9})
    table = rows(tmp_path)
    scores = [row["validation.loss"] for row in table]
    assert scores[-1] < 0.1 * scores[0]
    assert result.best_epoch == 1 + int(np.argmin(scores))
    assert result.best == table[result.best_epoch - 1]
    assert result.last == table[-1]
    again = evaluate(potential, validation, batch_size=8)
    assert again["loss"] == pytest.approx(min(scores), rel=1e-12)
    assert again["forces_rmse"] == pytest.approx(result.best["validation.forces_rmse"], rel=1e-12)
    saved = load_weights(tmp_path / "checkpoint" / "best.safetensors")
    assert all(torch.equal(value, saved[name]) for name, value in potential.state_dict().items())
    assert not potential.training
    assert result.source == "ema"


def test_training_metrics_are_those_of_the_passes(tmp_path: Path, train: Dataset) -> None:
    """With a vanishing learning rate the training pass sees the initial weights only."""
    _, result = trained(tmp_path, train, None, epochs=1, optimiser={"lr": 1e-300})
    expected = evaluate(network(), train)
    assert result.last["loss"] == pytest.approx(expected["loss"])
    for name in ("energy_per_atom_mae", "energy_per_atom_rmse", "forces_mae", "forces_rmse"):
        assert result.last[f"train.{name}"] == pytest.approx(expected[name])


def test_a_step_is_plain_gradient_descent(tmp_path: Path, train: Dataset) -> None:
    changes = {"epochs": 1, "batch_size": 12, "schedule": {"name": "constant"}, "loss": {"forces": {"weight": 2.0}}}
    potential, _ = trained(tmp_path, train, None, optimiser={"name": "sgd", "lr": 1e-3}, **changes)
    other, batch = network(), train.select(range(12))
    prediction = other.predict(batch.graph, differentiable=True)
    per_atom = (prediction.energy - batch.labels.energy) / train.structure_sizes
    (per_atom.square().mean() + 2 * (prediction.forces - batch.labels.forces).square().mean()).backward()
    for (name, one), two in zip(potential.named_parameters(), other.parameters(), strict=True):
        if two.grad is not None:
            torch.testing.assert_close(one, two - 1e-3 * two.grad, msg=name)


@pytest.mark.parametrize("start", [4, 0.5])
def test_swa_is_the_mean_of_the_last_epochs(
    tmp_path: Path, train: Dataset, validation: Dataset, start: int | float
) -> None:
    changes = {"schedule": {"name": "constant"}, "monitor": "forces_rmse"}
    potential, result = trained(tmp_path / "swa", train, validation, epochs=6, swa={"start_epoch": start}, **changes)
    assert result.source == "swa"
    live = []
    for n in (4, 5, 6):
        other = network()
        fit(other, train, None, recipe(epochs=n, schedule={"name": "constant"}, monitor="loss"), tmp_path / f"live{n}")
        checkpoint = sorted((tmp_path / f"live{n}" / "checkpoint").glob("0*"))[-1]
        live.append(checkpoint_weights(checkpoint)["potential.hidden"])
    torch.testing.assert_close(potential.state_dict()["potential.hidden"], torch.stack(live).mean(0))
    assert result.best["validation.forces_rmse"] == pytest.approx(evaluate(potential, validation)["forces_rmse"])


def checkpoint_weights(path: Path) -> dict[str, torch.Tensor]:
    tensors = load_checkpoint(path).tensors
    return {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}


def test_stage_two_changes_the_weights_and_forgets_the_best(
    tmp_path: Path, train: Dataset, validation: Dataset
) -> None:
    stage_two = {"start_epoch": 6, "energy_weight": 1000, "forces_weight": 1, "lr": 1e-5}
    _, result = trained(tmp_path, train, validation, stage_two=stage_two)
    table = rows(tmp_path)
    assert [row["stage"] for row in table] == 5 * [1] + 5 * [2]
    assert [row["lr"] for row in table] == 5 * [0.01] + 5 * [1e-5]
    assert result.best_epoch > 5
    last = table[-1]
    expected = 1000 * last["validation.energy_per_atom_rmse"] ** 2 + last["validation.forces_rmse"] ** 2
    assert last["validation.loss"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("stopping", "reason"),
    [
        ({"patience": 3}, "patience"),
        ({"lr_below": 0.002}, "lr_below"),
        ({"target": 1e9}, "target"),
        ({"max_steps": 8}, "max_steps"),
        ({"max_seconds": 1e-3}, "max_seconds"),
    ],
)
def test_stopping(tmp_path: Path, train: Dataset, validation: Dataset, stopping: dict, reason: str) -> None:
    schedule = {"name": "exponential", "factor": 0.5}
    optimiser = {"lr": 0.01} if reason != "patience" else {"lr": 1e-300}
    _, result = trained(tmp_path, train, validation, stopping=stopping, schedule=schedule, optimiser=optimiser)
    assert result.finished == reason
    assert result.epochs == {"patience": 4, "lr_below": 3, "target": 1, "max_steps": 3, "max_seconds": 1}[reason]
    again = fit(
        network(), train, validation, recipe(stopping=stopping, schedule=schedule, optimiser=optimiser), tmp_path
    )
    assert (again.finished, again.epochs) == (reason, result.epochs)
    lifted = fit(network(), train, validation, recipe(schedule=schedule, optimiser=optimiser), tmp_path)
    assert (lifted.finished, lifted.epochs) == ("epochs", 10)


def test_the_rate_counts_steps(tmp_path: Path, train: Dataset) -> None:
    """A fall after every fifth step and a rise over the first two, with three or more steps in an epoch."""
    steps = math.ceil(len(train) / 4)
    schedule = {"name": "step", "factor": 0.5, "steps": 5}
    trained(tmp_path, train, None, epochs=4, schedule=schedule, warm_up_steps=2)
    expected = [0.01 * 0.5 ** ((steps * (epoch + 1) - 1) // 5) for epoch in range(4)]
    assert steps > 2
    assert [row["lr"] for row in rows(tmp_path)] == pytest.approx(expected)


def test_steps_are_counted_across_a_resume(tmp_path: Path, train: Dataset) -> None:
    settings: dict[str, Any] = {"schedule": {"name": "step", "factor": 0.5, "steps": 5}, "warm_up_steps": 4}
    _, whole = trained(tmp_path / "whole", train, None, epochs=6, **settings)
    _, first = trained(tmp_path / "parts", train, None, epochs=6, stopping={"max_steps": 4}, **settings)
    assert (first.finished, first.epochs) == ("max_steps", 2)
    _, second = trained(tmp_path / "parts", train, None, epochs=6, **settings)
    assert (second.finished, second.epochs) == ("epochs", 6)
    one, other = ([{**row, "seconds": 0} for row in rows(tmp_path / part)] for part in ("whole", "parts"))
    assert one == other
    assert whole.best["loss"] == second.best["loss"]


def test_a_time_limit_shortens_the_plan(tmp_path: Path, train: Dataset) -> None:
    """A cosine, stage two and SWA come to their ends, in proportion; and a resumed training keeps the plan."""
    changes = {
        "epochs": 10000,
        "stage_two": {"start_epoch": 5000, "energy_weight": 2},
        "swa": {"start_epoch": 9000},
        "stopping": {"max_seconds": 2.0, "shorten": True},
        "schedule": {"name": "cosine"},
    }
    _, result = trained(tmp_path, train, None, **changes)
    table = rows(tmp_path)
    n = len(table)
    assert result.finished in ("epochs", "max_seconds")  # the last epoch may be slower than those before
    assert (result.source, result.epochs) == ("swa", n)
    assert 4 <= n < 1000
    assert result.seconds < 3
    assert table[-1]["lr"] < 0.1 * table[0]["lr"]
    first = next(row["seconds"] for row in table if row["stage"] == 2)
    assert 0.8 < first < 1.4  # half of the time
    assert trained(tmp_path, train, None, **changes)[1].epochs == n


class FakeClock:
    """A clock that a training drives: each step takes `pace(seconds so far)`, and nothing else takes time."""

    def __init__(self, pace, monkeypatch: pytest.MonkeyPatch, validation: float = 0.0) -> None:
        self.now = 0.0
        step, validate = Loop.step, Loop.validate

        def slow_step(loop, *arguments):
            found = step(loop, *arguments)
            self.now += pace(self.now)
            return found

        def slow_validation(loop, *arguments):
            self.now += validation
            return validate(loop, *arguments)

        monkeypatch.setattr(Loop, "step", slow_step)
        monkeypatch.setattr(Loop, "validate", slow_validation)

    def __call__(self) -> float:
        return self.now


LIMITED = {
    "epochs": 200,
    "batch_size": 4,
    "schedule": {"name": "cosine"},
    "stage_two": {"start_epoch": 0.5, "energy_weight": 2},
    "swa": {"start_epoch": 0.75},
}


@pytest.mark.parametrize(
    "pace",
    [
        pytest.param(lambda now: 1.0, id="steady"),
        pytest.param(lambda now: 1.0 if now < 50 else 10.0, id="ten times slower at half"),
        pytest.param(lambda now: 5.0 if now < 50 else 0.2, id="faster at half"),
        pytest.param(lambda now: 20.0, id="an epoch longer than half of it"),
    ],
)
def test_a_time_limit_is_kept_and_the_schedule_follows_the_clock(
    tmp_path, train, validation, monkeypatch, pace
) -> None:
    clock = FakeClock(pace, monkeypatch, validation=0.5)
    changes = {**LIMITED, "stopping": {"max_seconds": 100.0, "shorten": True}}
    result = fit(network(), train, validation, recipe(**changes), tmp_path, clock=clock)
    table = rows(tmp_path)
    assert result.finished == "max_seconds"
    assert 100 - 2 * pace(clock.now) - 3 < clock.now <= 100 + pace(clock.now)
    slowest = pace(99.0) / 100
    assert table[-1]["lr"] <= 0.01 * (1 + math.cos(math.pi * (1 - 3 * slowest - 0.04))) / 2
    stages = [row["stage"] for row in table]
    assert stages[-1] == 2
    begun = next(row["seconds"] for row in table if row["stage"] == 2)
    assert begun >= 45
    assert result.source == "swa"
    assert 0 < result.share <= 1


def test_without_shortening_a_time_limit_cuts_within_an_epoch(tmp_path, train, monkeypatch) -> None:
    clock = FakeClock(lambda now: 7.0, monkeypatch)
    result = fit(network(), train, None, recipe(epochs=50, stopping={"max_seconds": 40.0}), tmp_path, clock=clock)
    steps = math.ceil(len(train) / recipe().batch_size)
    assert result.finished == "max_seconds"
    assert clock.now == 35.0
    assert result.epochs == 5 // steps + 1
    assert result.share == (5 % steps) / steps


def test_a_limit_shorter_than_a_step_leaves_one_step(tmp_path, train, validation, monkeypatch) -> None:
    clock = FakeClock(lambda now: 60.0, monkeypatch, validation=1.0)
    result = fit(network(), train, validation, recipe(epochs=50, stopping={"max_seconds": 10.0}), tmp_path, clock=clock)
    assert (result.finished, result.epochs) == ("max_seconds", 1)
    assert clock.now <= 121
    assert "validation.loss" in result.last


def test_a_resumed_training_keeps_to_the_time_that_is_left(tmp_path, train, monkeypatch) -> None:
    clock = FakeClock(lambda now: 1.0, monkeypatch)
    changes = {**LIMITED, "stopping": {"max_seconds": 30.0, "shorten": True}}
    settings = recipe(**changes)

    def until(seconds: float):
        def asked(loop) -> None:
            if clock.now >= seconds:
                raise KeyboardInterrupt

        return asked

    saved = Checkpointing(every_batches=1)
    real = Loop.save

    def save(loop) -> None:
        real(loop)
        until(12.0)(loop)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "save", save)
        with pytest.raises(KeyboardInterrupt):
            fit(network(), train, None, settings, tmp_path, clock=clock, checkpointing=saved)
    stopped = clock.now
    clock.now += 1000.0  # an interruption is not training
    result = fit(network(), train, None, settings, tmp_path, clock=clock, checkpointing=saved)
    assert result.finished == "max_seconds"
    assert clock.now - 1000.0 <= 30.0
    assert result.seconds == pytest.approx(clock.now - 1000.0, abs=1.5)
    assert 12.0 <= stopped <= 13.0


def test_patience_brings_the_next_phase_first(tmp_path: Path, train: Dataset, validation: Dataset) -> None:
    changes = {"optimiser": {"lr": 1e-300}, "stopping": {"patience": 2}, "epochs": 100}
    _, result = trained(
        tmp_path,
        train,
        validation,
        stage_two={"start_epoch": 50, "energy_weight": 2},
        swa={"start_epoch": 60},
        **changes,
    )
    assert [row["stage"] for row in rows(tmp_path)] == [1, 1, 1, 2, 2, 2, 2, 2]
    assert (result.finished, result.source) == ("patience", "swa")


def test_a_diverging_training_names_its_frames_and_keeps_the_checkpoint(tmp_path: Path, train: Dataset) -> None:
    potential = network()
    optimiser, schedule = {"name": "sgd", "lr": 1e200}, {"name": "constant"}
    with pytest.raises(Diverged, match=r"epoch 1, batch 2 \(toy.xyz frame \d+, .*lower the learning rate") as caught:
        fit(potential, train, None, recipe(optimiser=optimiser, schedule=schedule), tmp_path)
    assert "\n" not in str(caught.value)
    kept = sorted((tmp_path / "checkpoint").glob("0*"))
    assert all(torch.isfinite(value).all() for value in checkpoint_weights(kept[-1]).values())


def test_gradient_clipping(tmp_path: Path, train: Dataset) -> None:
    potential, before = network(), network()
    settings = {"name": "sgd", "lr": 1.0}
    fit(potential, train, None, recipe(epochs=1, batch_size=12, optimiser=settings, max_gradient_norm=1e-3), tmp_path)
    moved = [(a - b).detach().reshape(-1) for a, b in zip(potential.parameters(), before.parameters(), strict=True)]
    assert float(torch.cat(moved).norm()) == pytest.approx(1e-3, rel=1e-4)
    assert rows(tmp_path)[0]["gradient_norm"] > 1


def test_labels_of_any_mixture(tmp_path: Path) -> None:
    frames = labelled_frames(8)
    mixed = [
        replace(f, forces=None) if n % 3 == 0 else replace(f, energy=None) if n % 3 == 1 else f
        for n, f in enumerate(frames)
    ]
    mixed[7] = replace(frames[7], energy=None, forces=None)
    data = Dataset(mixed, CUTOFF)
    _, result = trained(tmp_path, data, data, batch_size=1)
    assert all(value is not None for value in result.last.values())
    counts = ErrorTrajectory.load(tmp_path / "errors.npz").counts.sum(1)
    has_forces = data.labels.has_forces.numpy()
    assert (counts[has_forces] == 10).all()
    assert (counts[~has_forces] == 0).all()


@pytest.mark.parametrize(
    ("gone", "weights"), [("forces", {"forces": {"weight": 0}}), ("energy", {"energy": {"weight": 0}})]
)
def test_one_kind_of_label_only(tmp_path: Path, gone: str, weights: dict) -> None:
    data = Dataset([replace(frame, **{gone: None}) for frame in labelled_frames(8)], CUTOFF)
    _, result = trained(tmp_path / "a", data, None, loss=weights)
    assert result.last["loss"] < rows(tmp_path / "a")[0]["loss"]
    assert not any(gone in name for name in result.last)
    with pytest.raises(InputError, match=f"none of the 8 training structures has {gone}"):
        trained(tmp_path / "b", data, None)


def test_stress(tmp_path: Path) -> None:
    data = Dataset(labelled_frames(6, crystal=True), CUTOFF)
    _, result = trained(tmp_path, data, data, epochs=20, loss={"stress": {"weight": 1e5}})
    assert result.last["train.stress_rmse"] < 0.5 * rows(tmp_path)[0]["train.stress_rmse"]


def test_weights_of_structures_decide_what_is_learnt(tmp_path: Path, train: Dataset) -> None:
    """With all weight on one half, a training is that of this half (in the order of the whole)."""
    half = Dataset(list(train.structures[:6]), CUTOFF)
    one, other = network(), network()
    settings = recipe(epochs=3, batch_size=12, shuffle=False)
    fit(one, half, None, settings, tmp_path / "half")
    weights = Weights(structures=torch.tensor(6 * [1.0] + 6 * [0.0]))
    fit(other, train, None, settings, tmp_path / "weighted", weights=weights)
    for name, value in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, msg=name)


def test_the_first_epochs_errors_are_those_of_the_first_weights(tmp_path: Path, train: Dataset) -> None:
    potential = network()
    settings = recipe(epochs=2, optimiser={"lr": 1e-300})
    fit(potential, train, None, settings, tmp_path, error_log=ErrorLogging(raw=True))
    prediction = network().predict(train.select(range(12)).graph)
    expected = torch.linalg.vector_norm(prediction.forces - train.labels.forces, dim=1).numpy()
    np.testing.assert_allclose(raw_errors(tmp_path), np.stack([expected, expected]), rtol=1e-6)


def test_no_error_log(tmp_path: Path, train: Dataset) -> None:
    fit(network(), train, None, recipe(epochs=1), tmp_path / "a", error_log=ErrorLogging(enabled=False))
    fit(network(), train, None, recipe(epochs=1, error_log={"enabled": False}), tmp_path / "b")
    assert not list(tmp_path.rglob("errors.npz"))


def test_the_order_of_structures(tmp_path: Path, train: Dataset) -> None:
    _, shuffled = trained(tmp_path / "a", train, None)
    _, again = trained(tmp_path / "b", train, None)
    _, other = trained(tmp_path / "c", train, None, seed=1)
    _, fixed = trained(tmp_path / "d", train, None, shuffle=False)
    losses = [result.last["loss"] for result in (shuffled, again, other, fixed)]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3


def test_batches_by_edges(tmp_path: Path, train: Dataset) -> None:
    _, result = trained(tmp_path, train, train, max_edges=int(train.edge_counts.max()) * 3)
    assert result.last["loss"] < rows(tmp_path)[0]["loss"]


def test_float32(tmp_path: Path, train: Dataset, validation: Dataset) -> None:
    potential = network(dtype=torch.float32)
    result = fit(potential, train, validation, recipe(ema={"decay": 0.9}, swa={"start_epoch": 9}), tmp_path)
    assert result.last["loss"] < rows(tmp_path)[0]["loss"]
    assert potential.scale.dtype == torch.float32
    assert potential.e0.table.dtype == torch.float64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimiser": {"lr": 0.02}}, r"recipe.optimiser.lr was 0.01, is 0.02"),
        ({"loss": {"energy": {"weight": 3}}}, r"recipe.loss.energy.weight was 1.0, is 3.0"),
        ({"ema": {"decay": 0.9}}, r"recipe.ema"),
    ],
)
def test_another_recipe_cannot_continue(tmp_path: Path, train: Dataset, changes: dict, message: str) -> None:
    trained(tmp_path, train, None, epochs=2)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(InputError, match=message):
        trained(tmp_path, train, None, **{"epochs": 2, **changes})
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_other_data_or_another_potential_cannot_continue(tmp_path: Path, train: Dataset, validation: Dataset) -> None:
    trained(tmp_path, train, None, epochs=2)
    fewer = Dataset(list(train.structures[:11]), CUTOFF)
    moved = Dataset([*train.structures[:11], replace(train.structures[11], energy=1.0)], CUTOFF)
    with pytest.raises(InputError, match=r"training data.content was .*training data.structures was 12, is 11"):
        trained(tmp_path, fewer, None, epochs=2)
    with pytest.raises(InputError, match=r"training data.content was"):
        trained(tmp_path, moved, None, epochs=2)
    with pytest.raises(InputError, match=r"validation data"):
        trained(tmp_path, train, validation, epochs=2)
    with pytest.raises(InputError, match=r"potential.parameters"):
        fit(network(dtype=torch.float32), train, None, recipe(epochs=2), tmp_path)


def test_resume_demanded_and_refused(tmp_path: Path, train: Dataset) -> None:
    with pytest.raises(InputError, match="no checkpoint to continue from"):
        fit(network(), train, None, recipe(), tmp_path, resume=True)
    fit(network(), train, None, recipe(epochs=1), tmp_path, resume=False)
    with pytest.raises(InputError, match="holds a training already"):
        fit(network(), train, None, recipe(epochs=1), tmp_path, resume=False)
    assert fit(network(), train, None, recipe(epochs=2), tmp_path, resume=True).epochs == 2


def test_data_that_does_not_suit_the_potential(tmp_path: Path, train: Dataset) -> None:
    short = Dataset(list(train.structures), CUTOFF - 1)
    with pytest.raises(InputError, match=r"neighbours up to 3.0 Å, the potential needs 4.0 Å"):
        fit(network(), short, None, recipe(), tmp_path)
    foreign = Dataset([replace(f, atomic_numbers=f.atomic_numbers + 1) for f in train.structures], CUTOFF)
    with pytest.raises(InputError, match="unknown to the potential"):
        fit(network(), foreign, None, recipe(), tmp_path)


def test_tensorboard(tmp_path: Path, train: Dataset) -> None:
    pytest.importorskip("tensorboard")
    trained(tmp_path, train, None, epochs=2, tensorboard=True)
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_evaluation_does_not_depend_on_batches(train: Dataset, potential: Baseline) -> None:
    whole = evaluate(potential, train, batch_size=100)
    for other in (evaluate(potential, train, batch_size=1), evaluate(potential, train, max_edges=100)):
        assert other == pytest.approx(whole, rel=1e-12)
    assert set(evaluate(potential, train, Loss())) == {
        "loss",
        *(f"{q}_{k}" for q in ("energy_per_atom", "forces") for k in ("mae", "rmse")),
    }
