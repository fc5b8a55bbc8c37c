"""How a potential is trained, as one validated object.

Three words that are never mixed: `ema` is a running average of the weights over steps, `swa` an average of the
weights over the last epochs, `stage_two` a change of the energy, force and stress weights in the loss.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from ase.data import atomic_numbers
from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from fireassay.settings import Settings


def _element(value: Any) -> int | str:
    """The atomic number of a symbol or number, or "other"."""
    number = atomic_numbers.get(value, value) if isinstance(value, str) else value
    if number == "other" or (str(number).isdigit() and 1 <= int(number) <= 118):
        return number if number == "other" else int(number)
    raise ValueError(f"{value!r} is no element; give symbols, atomic numbers, or other")


NonNegative = Annotated[float, Field(ge=0)]
Element = Annotated[int | Literal["other"], BeforeValidator(_element)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Start = Annotated[int, Field(ge=1)] | Fraction
Monitor = Literal[
    "loss",
    "energy_per_atom_mae",
    "energy_per_atom_rmse",
    "forces_mae",
    "forces_rmse",
    "stress_mae",
    "stress_rmse",
]


class EnergyTerm(Settings):
    """The energy's part of the loss, averaged over the structures that have an energy."""

    weight: NonNegative = Field(default=1.0, description="Weight; in 1/eV^2 for mse, in 1/eV for mae and huber")
    kind: Literal["mse", "mae", "huber"] = Field(default="mse", description="Penalty of one energy error")
    delta: PositiveFloat = Field(default=0.01, description="Where huber turns from quadratic to linear, eV (per atom)")
    per_atom: bool = Field(default=True, description="Divide the error by the structure's number of atoms first")


class ForcesTerm(Settings):
    """The forces' part of the loss, averaged over the atoms that have forces (NequIP, eq. 9, with mse)."""

    weight: NonNegative = Field(default=1000.0, description="Weight; in Å^2/eV^2 for mse, in Å/eV otherwise")
    kind: Literal["mse", "mae", "huber", "norm"] = Field(
        default="mse", description="Penalty of one force component; `norm` is the length of an atom's force error"
    )
    delta: PositiveFloat = Field(default=0.01, description="Where huber turns from quadratic to linear, eV/Å")
    average: Literal["atoms", "structures"] = Field(
        default="atoms", description="Average over all atoms of a batch, or within each structure first (NequIP, eq. 9)"
    )
    species: Literal["equal", "balanced"] | dict[Element, NonNegative | Literal["shared"]] = Field(
        default="equal",
        description="What each element's atoms count, by symbol, number or `other`, as in {H: 2, other: 1}; the atoms "
        "of a `shared` element, as in {Cu: shared, other: 1}, count as one in each structure; `balanced`: every "
        "element counts equally",
    )


class StressTerm(Settings):
    """The stress's part of the loss, averaged over the structures that have a stress."""

    weight: NonNegative = Field(default=0.0, description="Weight; in Å^6/eV^2 for mse, in Å^3/eV for mae and huber")
    kind: Literal["mse", "mae", "huber"] = Field(default="mse", description="Penalty of one stress component")
    delta: PositiveFloat = Field(default=0.001, description="Where huber turns from quadratic to linear, eV/Å^3")


class Loss(Settings):
    """A weighted sum of energy, force and stress terms; labels that a structure lacks are left out of the averages."""

    energy: EnergyTerm = EnergyTerm()
    forces: ForcesTerm = ForcesTerm()
    stress: StressTerm = StressTerm()


class ParameterGroup(Settings):
    """Parameters with a learning rate or a weight decay of their own."""

    pattern: str = Field(description="Shell pattern of parameter names, such as *.frequencies; first match counts")
    lr: NonNegative | None = Field(default=None, description="Learning rate at the start; None for the optimiser's")
    weight_decay: NonNegative | None = Field(default=None, description="Weight decay; None for the optimiser's")


class Optimiser(Settings):
    """Adam (with AMSGrad or not), AdamW or SGD."""

    name: Literal["adam", "adamw", "sgd"] = Field(default="adam", description="Which optimiser")
    lr: PositiveFloat = Field(default=0.005, description="Learning rate at the start")
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        default=(0.9, 0.999), description="Decay of Adam's first and second moments per step"
    )
    eps: PositiveFloat = Field(default=1e-8, description="Added to Adam's denominator")
    amsgrad: bool = Field(default=True, description="Keep the largest second moment (AMSGrad); Adam and AdamW only")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.0, description="Momentum; SGD only")
    weight_decay: NonNegative = Field(
        default=0.0, description="Weight decay of parameters in no group; L2 unless adamw"
    )
    groups: tuple[ParameterGroup, ...] = Field(
        default=(), description="Parameters that are treated differently, by name"
    )


class Constant(Settings):
    """The learning rate stays."""

    name: Literal["constant"] = "constant"


class Plateau(Settings):
    """The learning rate falls by `factor` when the monitored metric has not improved for `patience` epochs."""

    name: Literal["plateau"] = "plateau"
    factor: Fraction = Field(default=0.8, description="What the learning rate is multiplied by")
    patience: Annotated[int, Field(ge=0)] = Field(
        default=50, description="Epochs without improvement that are let pass"
    )
    threshold: NonNegative = Field(default=1e-4, description="Relative fall of the metric that counts as improvement")
    monitor: Monitor | None = Field(default=None, description="Metric that is watched; None for the recipe's monitor")


class Cosine(Settings):
    """The learning rate falls along half a cosine from its start to `min_lr` over all epochs, step by step."""

    name: Literal["cosine"] = "cosine"


class Exponential(Settings):
    """The learning rate is multiplied by `factor` after every epoch."""

    name: Literal["exponential"] = "exponential"
    factor: Fraction = Field(default=0.99, description="What the learning rate is multiplied by every epoch")


class Step(Settings):
    """The learning rate is multiplied by `factor` after every `epochs` epochs, or after every `steps` steps."""

    name: Literal["step"] = "step"
    factor: Fraction = Field(default=0.5, description="What the learning rate is multiplied by")
    epochs: PositiveInt = Field(default=100, description="Epochs between two falls")
    steps: PositiveInt | None = Field(default=None, description="Steps between two falls, in place of epochs")


Schedule = Annotated[Constant | Plateau | Cosine | Exponential | Step, Field(discriminator="name")]


class Ema(Settings):
    """Exponential moving average of the weights; validation and the final potential use it."""

    decay: Fraction = Field(default=0.99, description="Share of the average that stays at each step")
    warm_up: bool = Field(default=True, description="At step t (from 1) use min(decay, (1 + t) / (10 + t)) instead")


class Swa(Settings):
    """Stochastic weight averaging: the mean of the weights at the ends of the epochs from `start_epoch` on."""

    start_epoch: Start = Field(
        description="First epoch (from 1) whose weights are averaged, or the share of epochs before it, such as 0.75"
    )
    lr: PositiveFloat | None = Field(
        default=None, description="Constant learning rate from then on; None leaves the schedule"
    )
    choose: Literal["always", "if_better"] = Field(
        default="always", description="Whether the average is the final potential whatever it scores, or only when best"
    )


class StageTwo(Settings):
    """New weights in the loss from an epoch on; the best model and all patience are counted anew from there."""

    start_epoch: Start = Field(
        description="First epoch (from 1) with the new weights, or the share of epochs before it, such as 0.75"
    )
    energy_weight: NonNegative | None = Field(default=None, description="New energy weight; None keeps the old one")
    forces_weight: NonNegative | None = Field(default=None, description="New force weight; None keeps the old one")
    stress_weight: NonNegative | None = Field(default=None, description="New stress weight; None keeps the old one")
    lr: PositiveFloat | None = Field(
        default=None, description="Constant learning rate from then on; None leaves the schedule"
    )


class Stopping(Settings):
    """What ends a training before its last epoch. A stage or an SWA still to come begins instead, where possible."""

    patience: PositiveInt | None = Field(default=None, description="Epochs without improvement of the monitored metric")
    lr_below: PositiveFloat | None = Field(default=None, description="Stop once the learning rate is below this")
    max_steps: PositiveInt | None = Field(
        default=None, description="Stop with the epoch in which this many steps are done"
    )
    max_seconds: PositiveFloat | None = Field(
        default=None, description="Stop after this training time, s (interruptions excluded)"
    )
    shorten: bool = Field(
        default=False,
        description="Do as many of the epochs as max_seconds allows, and bring a cosine schedule, stage_two and swa "
        "forward in proportion",
    )
    target: PositiveFloat | None = Field(default=None, description="Stop once the monitored metric is at most this")


class Checkpointing(Settings):
    """When the state of a training is saved. None of it changes the result."""

    every_epochs: PositiveInt = Field(default=1, description="Epochs between checkpoints")
    rest_seconds: NonNegative = Field(
        default=2.0, description="An epoch that ends sooner than this after the last checkpoint is not saved, s"
    )
    every_minutes: PositiveFloat | None = Field(default=10.0, description="Minutes between checkpoints within an epoch")
    every_batches: PositiveInt | None = Field(default=None, description="Steps between checkpoints within an epoch")


class ErrorLogging(Settings):
    """Per-atom errors over the epochs (LTAU-FF): ε_i = |F_ref - F|, from the training pass with the live weights."""

    enabled: bool = Field(default=True, description="Keep a histogram of every training atom's force errors")
    bins: PositiveInt = Field(default=100, description="Logarithmic bins")
    lowest: PositiveFloat = Field(default=1e-8, description="Lower edge of the first bin, eV/Å")
    highest: PositiveFloat | None = Field(
        default=None,
        description="Upper edge of the last bin, eV/Å; None: the largest error of the first epoch, with bins of the "
        "same ratio above it where a later one is larger (LTAU-FF: the largest error of the training)",
    )
    raw: bool = Field(default=False, description="Also write every error to errors.float32, epoch by epoch")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.highest is not None and self.highest <= self.lowest:
            raise ValueError(f"highest is {self.highest} eV/Å, needs to be above lowest, {self.lowest} eV/Å")
        return self


class Recipe(Settings):
    """Everything that decides how the weights move, apart from the potential, the data and the machine.

    An exact resume needs the same recipe; only `epochs`, `stopping`, `checkpoints` and `tensorboard` may differ (with a
    cosine schedule, which depends on it, `epochs` may not).
    """

    epochs: PositiveInt = Field(default=1000, description="Passes over the training set")
    batch_size: PositiveInt = Field(default=5, description="Structures per step, over all processes together")
    max_edges: PositiveInt | None = Field(
        default=None, description="Directed edges per step at most, in place of batch_size"
    )
    shuffle: bool = Field(default=True, description="New order of the structures in every epoch")
    seed: Annotated[int, Field(ge=0)] = Field(default=0, description="Seed of the order")
    loss: Loss = Loss()
    optimiser: Optimiser = Optimiser()
    schedule: Schedule = Plateau()
    warm_up_epochs: NonNegative = Field(
        default=0.0, description="Epochs over which the learning rate rises linearly from 0"
    )
    warm_up_steps: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Steps over which the learning rate rises linearly from 0"
    )
    min_lr: NonNegative = Field(default=0.0, description="The schedule does not take the learning rate below this")
    max_gradient_norm: PositiveFloat | None = Field(
        default=None, description="Longer gradients are scaled to this norm"
    )
    ema: Ema | None = Field(default=None, description="Running average of the weights over steps")
    swa: Swa | None = Field(default=None, description="Average of the weights over the last epochs")
    stage_two: StageTwo | None = Field(default=None, description="Change of the loss weights at an epoch")
    stopping: Stopping = Stopping()
    monitor: Monitor = Field(
        default="loss", description="Metric (validation's, else training's) that picks the best weights"
    )
    validation_interval: PositiveInt = Field(
        default=1, description="Epochs between validations; the last is always validated"
    )
    validation_batch_size: PositiveInt | None = Field(
        default=None, description="Structures per validation batch; None: twice batch_size"
    )

    error_log: ErrorLogging = ErrorLogging()
    checkpoints: Checkpointing = Checkpointing()
    tensorboard: bool = Field(default=False, description="Also write TensorBoard events; needs the tensorboard extra")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for stage in (1, 2):
            terms = self.loss_in(stage)
            if all(getattr(terms, name).weight == 0 for name in Loss.model_fields):
                raise ValueError(f"all weights of the loss are zero in stage {stage}; nothing would be learnt")
        for name, phase in (("stage_two", self.stage_two), ("swa", self.swa)):
            if phase is not None and phase.start_epoch > self.epochs:
                raise ValueError(f"{name}.start_epoch is {phase.start_epoch}, beyond the {self.epochs} epochs")
        return self

    def loss_in(self, stage: int) -> Loss:
        """The loss of stage 1 or 2."""
        if stage == 1 or self.stage_two is None:
            return self.loss
        loss = self.loss
        for name in Loss.model_fields:
            weight = getattr(self.stage_two, f"{name}_weight", None)
            if weight is not None:
                term = getattr(loss, name).model_copy(update={"weight": weight})
                loss = loss.model_copy(update={name: term})
        return loss
