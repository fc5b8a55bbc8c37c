"""Loss entropy against sums done by hand, and landscapes of potentials whose loss is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor, nn

from fireassay.assays import landscape
from fireassay.assays.assay import Subject
from fireassay.assays.directions import draw, flat, like, weights_of
from fireassay.assays.landscape import LandscapeSettings, entropy_over, loss_entropy, loss_entropy_integral
from fireassay.data.graph import Graph, from_structures
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.potential import LocalPotential
from fireassay.progress import Silent
from fireassay.records.landscape import LandscapeResult
from fireassay.records.typed import encode
from toys import Network

T = np.linspace(-0.25, 0.25, 81)


class Springs(LocalPotential):
    """Energy Σ_c w_c Σ_i |x_i|^2: linear in its weights, so that every line of the loss is known."""

    def __init__(self, weights: list[float]) -> None:
        super().__init__()
        self.arguments = {"weights": weights}
        self.cutoff = 1.0
        self.stiffness = nn.Parameter(torch.tensor(weights, dtype=torch.float64))

    def local(self, graph: Graph) -> tuple[Tensor, Tensor]:
        square = graph.positions.square().sum(1)
        return square * self.stiffness.sum(), square.unsqueeze(1)


def run(potential, train, settings, **more) -> LandscapeResult:
    return landscape.run(Subject(predictor=potential, train=train, **more), settings)


def frames(n: int, seed: int = 0, size: int = 4) -> list[Structure]:
    rng = np.random.default_rng(seed)
    return [Structure(np.full(size, 1), 2.0 * rng.normal(size=(size, 3))) for _ in range(n)]


def labelled(potential: LocalPotential, structures: list[Structure]) -> list[Structure]:
    out = []
    for s in structures:
        p = potential.predict(from_structures([s], potential.cutoff, potential.dtype))
        forces = p.forces.double().numpy()
        out.append(Structure(s.atomic_numbers, s.positions, energy=float(p.energy[0]), forces=forces))
    return out


def test_flat_loss_gives_log_of_the_number_of_points():
    assert loss_entropy(np.zeros(81), 0.04) == pytest.approx(np.log(81), abs=1e-12)
    assert round(loss_entropy(np.zeros(81), 0.004), 3) == 4.394  # the dashed line of Fig. S4


def test_quadratic_loss_is_a_gaussian_sum():
    loss, temperature = 50.0 * T**2, 0.04
    direct = sum(np.exp(-50.0 * x * x / temperature) for x in T)
    assert loss_entropy(loss, temperature) == pytest.approx(np.log(direct), abs=1e-12)
    # step h, width s: the sum is sqrt(2 pi) s / h up to exp(-2 pi^2 s^2 / h^2)
    gaussian = np.sqrt(np.pi * temperature / 50.0)
    assert loss_entropy(loss, temperature) == pytest.approx(np.log(gaussian / 0.00625), abs=1e-3)
    fine = np.linspace(-0.25, 0.25, 4001)
    assert loss_entropy_integral(fine, 50.0 * fine**2, temperature) == pytest.approx(np.log(gaussian), abs=1e-5)


SHAPES = {
    "parabola": lambda t: 0.0003 + 12.0 * t**2,
    "steep parabola": lambda t: 50.0 * t**2,
    "V": lambda t: 3.0 * np.abs(t),
    "quartic": lambda t: 400.0 * t**4,
    "root mean square": lambda t: np.sqrt(0.02**2 + (2.5 * t) ** 2),
    "skewed": lambda t: 8.0 * t**2 + 12.0 * np.abs(t) ** 3 + 4.0 * t**3,
    "beside the centre": lambda t: 20.0 * (t - 0.031) ** 2,
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", [0.004, 0.04])
def test_the_integral_does_not_depend_on_the_grid(shape, temperature):
    loss = SHAPES[shape] if temperature == 0.04 else lambda t: SHAPES[shape](t) / 10
    exact = np.log(quad(lambda t: np.exp(-loss(t) / temperature), -0.25, 0.25, points=[0.0, 0.031], limit=500)[0])
    for points in (21, 41, 81, 161):
        t = np.linspace(-0.25, 0.25, points)
        assert loss_entropy_integral(t, loss(t), temperature) == pytest.approx(exact, abs=1e-3)


def test_the_integral_at_its_limits():
    assert loss_entropy_integral(T, np.zeros(81), 0.04) == pytest.approx(np.log(0.5))
    assert loss_entropy_integral(T, np.full(81, np.inf), 0.04) == float("-inf")
    half = np.where(T > 0, np.inf, 0.0)
    assert loss_entropy_integral(T, half, 0.04) == pytest.approx(np.log(0.25))
    step = np.where(np.abs(T) > 0.1, 5.0, 0.0)  # a plateau with walls: nothing may be overshot
    inner = np.ptp(T[step == 0])
    assert np.log(inner) <= loss_entropy_integral(T, step, 0.04) <= np.log(inner + 2 * 0.00625)


@pytest.mark.parametrize("directions", [6, 10, 20])
def test_the_interval_of_an_entropy_covers_that_of_many_directions(directions):
    rng, covered = np.random.default_rng(directions), 0
    truth = loss_entropy(lines_of_random_curvature(np.random.default_rng(99), 20000).mean(0), 0.04)
    for _ in range(300):
        lines = lines_of_random_curvature(rng, directions)
        found = entropy_over(lambda kept, lines=lines: loss_entropy(lines[kept].mean(0), 0.04), directions)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= truth <= found.high
    assert 0.92 <= covered / 300 <= 0.99


def lines_of_random_curvature(rng, directions: int) -> np.ndarray:
    return np.exp(0.35 * rng.normal(size=(directions, 1))) * (1.4 * np.abs(T) + 3.0 * T**2)


def test_an_interval_needs_five_directions():
    lines = lines_of_random_curvature(np.random.default_rng(0), 4)
    found = entropy_over(lambda kept: loss_entropy(lines[kept].mean(0), 0.04), 4)
    assert found.low is found.high is None
    assert found.each.shape == (4,)


def test_entropy_of_unusual_input():
    loss = np.abs(T)
    expected = loss_entropy(loss, 0.04)
    assert loss_entropy(loss.tolist(), 0.04) == expected
    assert loss_entropy(torch.tensor(loss), 0.04) == expected
    assert loss_entropy(loss.astype(np.float32), 0.04) == pytest.approx(expected, abs=1e-6)
    assert isinstance(loss_entropy(loss.astype(np.float32), 0.04), float)
    assert loss_entropy(np.append(loss, np.inf), 0.04) == pytest.approx(expected)
    assert loss_entropy([np.inf, np.inf], 0.04) == float("-inf")
    assert loss_entropy(loss + 1e5, 0.04) == pytest.approx(expected - 1e5 / 0.04)  # no underflow
    assert loss_entropy(loss - 1e5, 0.04) == pytest.approx(expected + 1e5 / 0.04)  # no overflow


@pytest.mark.parametrize(
    ("loss", "temperature", "message"),
    [
        ([0.0], 0.0, "temperature is 0"),
        ([0.0], -1.0, "temperature"),
        ([0.0], np.nan, "temperature"),
        ([], 1.0, "shape"),
        ([[0.0, 1.0]], 1.0, "mean"),
        (0.0, 1.0, "shape"),
        ([np.nan, 0.0], 1.0, "NaN"),
        ([-np.inf, 0.0], 1.0, "-inf"),
    ],
)
def test_entropy_refuses(loss, temperature, message):
    with pytest.raises(InputError, match=message):
        loss_entropy(loss, temperature)


def test_lines_of_a_linear_model_are_straight_and_known():
    truth = Springs([0.5, 0.25, 0.25, 0.0])
    train = labelled(truth, frames(6))
    potential = Springs([0.5, 0.25, 0.25, 0.0])
    settings = LandscapeSettings(n_directions=3, points=5, span=0.5, seed=3)
    result = run(potential, train, settings)
    weights = weights_of(potential)
    directions, _ = draw(weights, "filter", 3, torch.Generator().manual_seed(3))
    square = np.array([np.square(s.positions).sum() for s in train])
    positions = np.concatenate([s.positions for s in train])
    change = directions.sum(1).numpy()[:, None] * result.t  # of the stiffness, (D, P)
    energy = np.abs(change) * np.sqrt(np.square(square / 4).mean())
    forces = np.abs(change) * np.sqrt(np.square(2 * positions).mean())
    np.testing.assert_allclose(result.lines["filter"].energy, energy, atol=1e-12)
    np.testing.assert_allclose(result.lines["filter"].forces, forces, atol=1e-12)
    s_e = loss_entropy(energy.mean(0), 0.004)
    s_f = loss_entropy(forces.mean(0), 0.04)
    assert result.lines["filter"].entropy.energy.value == pytest.approx(s_e)
    assert result.lines["filter"].entropy.forces.value == pytest.approx(s_f)
    assert result.lines["filter"].entropy.total.value == pytest.approx(0.2 * s_e + 0.8 * s_f)
    assert result.minimum_energy == pytest.approx(0, abs=1e-12)
    assert result.flat_entropy == pytest.approx(np.log(5))


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_weights_are_restored_bit_for_bit_after_success_error_and_interrupt(precision, monkeypatch):
    potential = Network([1]).to(precision).train()
    potential.readout.requires_grad_(False)
    train = labelled(Network([1], seed=1), frames(3))
    before = {k: v.clone() for k, v in potential.state_dict().items()}
    settings = LandscapeSettings(n_directions=2, points=3)

    def unchanged() -> bool:
        same = all(torch.equal(v, before[k]) for k, v in potential.state_dict().items())
        return same and potential.training and potential.hidden.requires_grad and not potential.readout.requires_grad

    run(potential, train, settings)
    assert unchanged()
    calls = [0]
    inner = landscape.TrainingLoss.__call__

    def failing(self):
        calls[0] += 1
        if calls[0] == 3:
            assert not unchanged()
            raise KeyboardInterrupt
        return inner(self)

    monkeypatch.setattr(landscape.TrainingLoss, "__call__", failing)
    with pytest.raises(KeyboardInterrupt):
        run(potential, train, settings)
    assert unchanged()


def test_an_interrupted_run_goes_on(tmp_path, monkeypatch):
    potential, train = Network([1]), labelled(Network([1], seed=1), frames(3))
    settings = LandscapeSettings(
        n_directions=4, points=5, normalisations=("filter", "published"), plane_points=3, twin=False
    )
    whole = run(potential, train, settings)
    calls = [0]
    inner = landscape.TrainingLoss.__call__

    def counted(self):
        calls[0] += 1
        if calls[0] == 11:  # 1 at the minimum, 4 a line
            raise KeyboardInterrupt
        return inner(self)

    monkeypatch.setattr(landscape.TrainingLoss, "__call__", counted)
    with pytest.raises(KeyboardInterrupt):
        run(potential, train, settings, folder=tmp_path)
    assert len(list((tmp_path / "landscape").iterdir())) == 2
    resumed = run(potential, train, settings, folder=tmp_path)
    assert calls[0] == 11 + 1 + 2 * 4 + 9 + 4 * 4 + 9
    again = encode(resumed)[1]
    for name, array in encode(whole)[1].items():
        np.testing.assert_array_equal(again[name], array)
    run(potential, train, settings, folder=tmp_path)
    assert calls[0] == 11 + 43 + 1
    with torch.no_grad():
        potential.hidden += 0.1  # other weights: nothing may be reused
    run(potential, train, settings, folder=tmp_path)
    assert calls[0] == 11 + 43 + 1 + 1 + 2 * (4 * 4 + 9)


def test_a_twin_is_used_only_where_it_agrees():
    class Twinned(Springs):
        off = 0.0

        def frozen(self):
            calls[0] += 1
            return Springs([x + self.off for x in self.stiffness.tolist()])

    calls = [0]
    train = labelled(Springs([1.0, 2.0]), frames(3))
    settings = LandscapeSettings(n_directions=2, points=5)
    plain = run(Twinned([1.0, 2.5]), train, LandscapeSettings(n_directions=2, points=5, twin=False))
    assert calls[0] == 0
    twin = run(Twinned([1.0, 2.5]), train, settings)
    assert calls[0] == 1 + 2 * 4  # made anew at every point
    assert twin.twin
    np.testing.assert_allclose(twin.lines["filter"].forces, plain.lines["filter"].forces)
    Twinned.off = 0.01
    wrong = run(Twinned([1.0, 2.5]), train, settings)
    assert not wrong.twin
    np.testing.assert_allclose(wrong.lines["filter"].forces, plain.lines["filter"].forces)


def test_progress_counts_every_point_once():
    class Counter(Silent):
        def start(self, description: str, total: int, done: int = 0) -> None:
            self.total, self.done = total, done

        def advance(self, steps: int = 1, note: str = "") -> None:
            self.done += steps

    counter = Counter()
    train = labelled(Network([1], seed=1), frames(2))
    run(Network([1]), train, LandscapeSettings(n_directions=2, points=3, plane_points=3), progress=counter)
    assert counter.done == counter.total == 2 * 2 + 9


def test_filters_are_columns_and_keep_their_norms():
    model = nn.Module()
    model.matrix = nn.Parameter(torch.randn(5, 7))
    model.paths = nn.Parameter(torch.randn(2, 3, 5, 7))
    model.bias = nn.Parameter(torch.randn(6))
    model.scalar = nn.Parameter(torch.tensor(2.0))
    model.fixed = nn.Parameter(torch.randn(4), requires_grad=False)
    weights = weights_of(model, ["bias"])
    assert [w.name for w in weights] == ["matrix", "paths", "scalar"]
    weights = weights_of(model)
    one, _ = draw(weights, "filter", 1, torch.Generator().manual_seed(0))
    matrix, paths, bias, scalar = like(one[0], weights)
    for delta, theta, axis in ((matrix, model.matrix, 0), (paths, model.paths, 2), (bias, model.bias, 0)):
        torch.testing.assert_close(delta.norm(dim=axis), theta.detach().double().norm(dim=axis))
    assert float(scalar.abs()) == pytest.approx(2.0)
    layer = like(draw(weights, "layer", 1, torch.Generator().manual_seed(0))[0][0], weights)
    assert float(layer[1].norm()) == pytest.approx(float(model.paths.detach().norm()), rel=1e-6)
    assert not torch.allclose(layer[1].norm(dim=2), model.paths.detach().double().norm(dim=2), rtol=0.01)
    whole = draw(weights, "model", 1, torch.Generator().manual_seed(0))[0][0]
    assert float(whole.norm()) == pytest.approx(float(flat([w.parameter for w in weights]).norm()))


def test_a_module_may_declare_its_filters():
    model = nn.Linear(3, 5)
    model.filter_axes = {"weight": (1,)}
    weights = weights_of(model)
    delta = like(draw(weights, "filter", 1, torch.Generator().manual_seed(0))[0][0], weights)[0]
    torch.testing.assert_close(delta.norm(dim=1), model.weight.detach().double().norm(dim=1))


def test_directions_are_orthogonal_and_reproducible():
    weights = weights_of(Network([1, 8]))
    for normalisation in ("filter", "layer", "model"):
        directions, cosines = draw(weights, normalisation, 20, torch.Generator().manual_seed(5))
        assert float((cosines - torch.eye(20)).abs().max()) < 1e-12
        again, _ = draw(weights, normalisation, 20, torch.Generator().manual_seed(5))
        assert torch.equal(directions, again)
        lengths = directions.norm(dim=1)
        assert float(lengths.max() - lengths.min()) < 1e-6 * float(lengths.max())
    with pytest.raises(InputError, match="orthogonal"):
        draw(weights_of(Springs([1.0, 2.0])), "filter", 3, torch.Generator())


def test_published_scaling_degenerates_to_the_absolute_weights():
    potential = Network([1, 8])
    weights = weights_of(potential)
    directions, cosines = draw(weights, "published", 4, torch.Generator().manual_seed(0))
    theta = flat([w.parameter for w in weights]).abs()
    assert torch.equal(directions, theta.expand(4, -1))
    assert float((cosines - 1).abs().max()) < 1e-12
    rows, cosines = draw(weights, "published", 4, torch.Generator().manual_seed(0), rows=["hidden"])
    hidden = like(rows[0], weights)[1]
    torch.testing.assert_close(hidden.norm(dim=1), potential.hidden.detach().double().norm(dim=1))
    assert (hidden >= 0).all()
    assert 0.5 < float(cosines.min()) < 0.999


def test_diverged_points_count_as_infinite():
    class Explosive(Springs):
        def local(self, graph: Graph) -> tuple[Tensor, Tensor]:
            energies, descriptors = super().local(graph)
            return energies * torch.log(1.1 - (self.stiffness - 1).abs().max()), descriptors

    potential = Explosive([1.0, 1.0])
    train = labelled(potential, frames(2))
    result = run(potential, train, LandscapeSettings(n_directions=2, points=5, span=20.0))
    assert np.isposinf(result.lines["filter"].forces[:, [0, -1]]).all()
    assert np.isfinite(result.lines["filter"].entropy.total.value)


def test_labels_decide_which_surfaces_there_are():
    potential = Network([1])
    train = labelled(Network([1], seed=1), frames(4))
    settings = LandscapeSettings(n_directions=1, points=3)
    bare = [Structure(s.atomic_numbers, s.positions, forces=s.forces) for s in train]
    result = run(potential, bare, settings)
    assert result.lines["filter"].entropy.energy is None
    assert result.lines["filter"].entropy.total is None
    assert result.lines["filter"].entropy.forces is not None
    mixed = [bare[0], *train[1:]]
    full, part = run(potential, train[1:], settings), run(potential, mixed, settings)
    np.testing.assert_allclose(part.lines["filter"].energy, full.lines["filter"].energy)
    with pytest.raises(InputError, match="needs labels"):
        run(potential, frames(2), settings)
    with pytest.raises(InputError, match="unknown to the potential"):
        run(Network([6]), train, settings)
    with pytest.raises(ValueError, match="odd"):
        LandscapeSettings(points=4)
    with pytest.raises(InputError, match="no trainable parameter"):
        run(potential, train, LandscapeSettings(frozen=("*",)))


def test_a_subset_of_frames_is_the_same_every_time():
    potential, train = Network([1]), labelled(Network([1], seed=1), frames(8))
    settings = LandscapeSettings(n_directions=1, points=3, frames=3)
    a, b = run(potential, train, settings), run(potential, train, settings)
    assert a.n_frames == 3
    np.testing.assert_array_equal(a.lines["filter"].forces, b.lines["filter"].forces)


def test_batches_do_not_matter():
    potential, train = Network([1]), labelled(Network([1], seed=1), frames(6))
    whole = run(potential, train, LandscapeSettings(n_directions=2, points=3))
    cut = run(potential, train, LandscapeSettings(n_directions=2, points=3, max_structures=2))
    np.testing.assert_allclose(whole.lines["filter"].energy, cut.lines["filter"].energy, rtol=1e-9)
