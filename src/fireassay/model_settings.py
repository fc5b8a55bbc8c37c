"""Settings of the architectures, typed once: by the signatures of their constructors."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_type_hints

from pydantic import Field, create_model, model_validator

from fireassay.models import MODELS
from fireassay.potential import LocalPotential
from fireassay.settings import Settings

POSITIVE = ("channels", "n_layers", "n_heads", "n_basis", "correlation", "envelope_p")  # ends of names of counts
FROM_DATA = ("species", "average_neighbours", "seed")  # arguments that the data or the seed supply where left out


class ModelSettings(Settings):
    """One architecture: its `type`, a key of MODELS, and the arguments of its constructor.

    Arguments that the data supply may be left out; every architecture has a `cutoff` in Å, the farthest edge it needs.
    """

    type: str
    cutoff: float

    @model_validator(mode="after")
    def _no_empty_species(self) -> ModelSettings:
        species = self.arguments().get("species")
        if species is not None and not len(species):
            raise ValueError("species is an empty list; leave it out to take those of the training frames")
        return self

    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments; None for one that the data are to supply."""
        return {name: getattr(self, name) for name in type(self).model_fields if name != "type"}

    def build(self, species: Sequence[int], average_neighbours: float, seed: int) -> LocalPotential:
        """The network with fresh weights. Raises InputError when its constructor refuses the arguments."""
        given = self.arguments()
        supplied = {"species": species, "average_neighbours": average_neighbours, "seed": seed}
        given |= {name: value for name, value in supplied.items() if name in given and given[name] is None}
        return MODELS[self.type](**given)


def settings_of(name: str, model: type[LocalPotential]) -> type[ModelSettings]:
    """The settings of a model, read from its constructor. Raises TypeError when that has no `cutoff`."""
    hints = get_type_hints(model.__init__, include_extras=True)
    fields: dict[str, Any] = {"type": (Literal[name], name)}  # type: ignore[valid-type]
    for parameter in list(inspect.signature(model.__init__).parameters.values())[1:]:
        hint, default = hints[parameter.name], parameter.default
        if parameter.name in FROM_DATA:
            hint, default = hint | None, None
        fields[parameter.name] = (
            _bounded(parameter.name, hint),
            ... if default is inspect.Parameter.empty else default,
        )
    if "cutoff" not in fields:
        raise TypeError(f"{model.__name__}.__init__ has no argument `cutoff`, the farthest edge that it needs, in Å")
    return create_model(model.__name__, __base__=ModelSettings, **fields)


def _bounded(name: str, hint: Any) -> Any:
    """The type of an argument with the bounds that its kind has in every architecture: counts, sizes and distances."""
    if name in FROM_DATA:
        return hint
    if hint is int:
        return Annotated[int, Field(ge=int(name.endswith(POSITIVE)))]
    if name == "cutoff":
        return Annotated[float, Field(gt=0)]
    if name.endswith(("hidden", "widths")) and hint == Sequence[int]:
        return Sequence[Annotated[int, Field(ge=1)]]
    return hint


MODEL_SETTINGS: dict[str, type[ModelSettings]] = {name: settings_of(name, model) for name, model in MODELS.items()}

if TYPE_CHECKING:
    AnyModel = ModelSettings
else:
    AnyModel = Annotated[Union[tuple(MODEL_SETTINGS.values())], Field(discriminator="type")]  # noqa: UP007
