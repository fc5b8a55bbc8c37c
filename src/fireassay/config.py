"""YAML to objects and back: the only file where a string picks a class.

A configuration is YAML plus dotted overrides (`training.epochs=50`). It is parsed by a safe loader, so a tag in it is
an error and never code; it is validated by pydantic, so a misspelt key is an error that names the nearest known one.
The `model` section is typed by the signature of the class that `type` picks (`model_settings`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from ase.data import atomic_numbers, chemical_symbols
from pydantic import Field, SerializeAsAny, field_validator

from fireassay.assays import ASSAYS
from fireassay.data.checks import check_accepted
from fireassay.data.conversion import Units
from fireassay.data.formats.elements import known_elements
from fireassay.data.keys import LABELS
from fireassay.errors import InputError, nearest
from fireassay.model_settings import FROM_DATA, AnyModel
from fireassay.overrides import dump_yaml, names_of, parse_yaml, with_overrides
from fireassay.records.files import read_text
from fireassay.settings import Settings, validated
from fireassay.training.recipe import Recipe

_DEVICE = r"auto|cpu|cuda(:\d+)?"
_NAME = r"[A-Za-z0-9][A-Za-z0-9 ._+-]*"


Files = str | list[str]


class Validation(Settings):
    """Where the validation frames come from: a file of their own, or a split of the training file."""

    file: Files | None = Field(default=None, description="a file of its own; the split below is then not used")
    method: Literal["random", "blocks", "group", "temperature"] = Field(
        default="random", description="how the frames are split off"
    )
    fraction: float = Field(default=0.1, ge=0, lt=1, description="share of the training file's frames")
    count: int | None = Field(default=None, ge=0, description="number of frames; overrides the fraction")
    gap: int = Field(default=0, ge=0, description="frames left out between the blocks, for method blocks")


class Data(Settings):
    """Files, folders, patterns, lists of these, or embedded sets such as 3bpa-xtb/train_300K."""

    train: Files = Field(description="training frames: a file, a pattern such as run-*/OUTCAR, or a list")
    validation: Validation = Validation()
    test: dict[str, Files] = Field(
        default_factory=dict, description="test splits by name, such as {300K: test_300K.xyz}"
    )
    start: str | None = Field(
        None, description="start of the stability assay; default: the first test or training frame"
    )
    reference: Files | None = Field(default=None, description="reference trajectory, for assays that compare with one")
    isolated_atoms: Files | None = Field(default=None, description="file of isolated atoms, for baseline.e0 = isolated")
    keys: dict[str, str | list[str] | None] | None = Field(
        default=None,
        description="label keys in the files, such as {energy: energy_xtb}; of several the first that a frame has",
    )
    units: dict[str, str] | None = Field(default=None, description="units in the files, such as {energy: kcal/mol}")
    elements: list[str] | None = Field(
        default=None, description="elements of numbered atom types, in their order, such as [Cu, Au]"
    )
    accept: list[str] = Field(
        default_factory=list, description="kinds of findings about the data that do not stop, such as [units]"
    )
    on_disk: bool | None = Field(
        default=None, description="keep the frames on disk and not in memory; default: those of files beyond 256 MB"
    )
    limit: int | None = Field(
        default=None, ge=1, description="use at most this many training frames, drawn with the seed"
    )

    @field_validator("units")
    @classmethod
    def _known_units(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        Units.of(value)
        return value

    @field_validator("keys")
    @classmethod
    def _known_labels(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        for label in value or {}:
            if label not in LABELS:
                raise ValueError(f"{label!r} is no label{nearest(label, LABELS)}; labels are {', '.join(LABELS)}")
        return value

    @field_validator("accept")
    @classmethod
    def _known_kinds(cls, value: list[str]) -> list[str]:
        check_accepted(value)
        return value

    @field_validator("elements")
    @classmethod
    def _known_elements(cls, value: list[str] | None) -> list[str] | None:
        known_elements(value)
        return value


Positive = Annotated[float, Field(gt=0)]


class BaselineConfig(Settings):
    """What lies under the network: isolated-atom energies, and the scale of its output."""

    e0: Literal["fit", "isolated", "zero"] | dict[str, float] = Field(
        default="fit",
        description="least squares on compositions; read from data.isolated_atoms; zero; or eV by element symbol",
    )
    scale: Literal["force_rms", "none"] | Positive | dict[str, Positive] = Field(
        default="force_rms", description="eV per unit of the network's output (rescaling on), or none (rescaling off)"
    )
    shift: Literal["mean", "none"] | float = Field(
        default="none", description="eV per atom added to every atom of a structure"
    )
    trainable_scale: bool = False
    trainable_shift: bool = False

    @field_validator("e0", "scale")
    @classmethod
    def _known_elements(cls, value: Any) -> Any:
        if isinstance(value, dict):
            symbol_map(value, "by element")
        return value


class Config(Settings):
    """A whole run: data, model, training, assays."""

    name: str = Field(default="potential", description="name in tables and figures")
    description: str = Field(default="", description="free text: the paper and the table that a preset reproduces")
    seed: int = Field(default=0, ge=0, description="of the weights, the order of the frames and their split")
    dtype: Literal["float32", "float64"] = "float32"
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, ...")
    threads: int | None = Field(default=None, ge=1, description="threads on the CPU; null: as many as this job may use")
    data: Data
    model: AnyModel = Field(description="type: one of the architectures, and the arguments of its constructor")
    baseline: BaselineConfig = BaselineConfig()
    training: Recipe = Recipe()
    assays: dict[str, SerializeAsAny[Settings]] = Field(
        default_factory=lambda: {name: assay.settings() for name, assay in ASSAYS.items() if assay.by_default},
        description="the assays to run, each with its settings",
    )

    @field_validator("name")
    @classmethod
    def _is_name(cls, value: str) -> str:
        if not re.fullmatch(_NAME, value):
            raise ValueError(f"{value!r} is no name; it needs letters, digits, blanks, . _ + - and none of these first")
        return value

    @field_validator("device")
    @classmethod
    def _is_device(cls, value: str) -> str:
        if not re.fullmatch(_DEVICE, value):
            raise ValueError(f"{value!r} is no device; give auto, cpu, cuda, or cuda:1 and so on")
        return value

    @field_validator("assays", mode="before")
    @classmethod
    def _known_assays(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise ValueError("needs a mapping from assays to their settings, such as {accuracy: {}}")
        unknown = [name for name in value if name not in ASSAYS]
        if unknown:
            known = ", ".join(ASSAYS)
            raise ValueError(f"unknown assay {unknown[0]!r}{nearest(str(unknown[0]), ASSAYS)}; known are {known}")
        return {name: assay_settings(name, settings) for name, settings in value.items()}


def assay_settings(name: str, settings: Any) -> Settings:
    """Settings of an assay that ships, from a mapping. Raises InputError that names every wrong key."""
    return validated(ASSAYS[name].settings, {} if settings is None else settings, f"assays.{name}")


def preset_names() -> list[str]:
    """The presets that ship, in alphabetical order."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in files("fireassay.presets").iterdir()
        if entry.name.endswith(".yaml")
    )


def reading_options(
    overrides: Sequence[str], keys: Mapping[str, Any] | None = None, units: Mapping[str, str] | None = None
) -> Data:
    """How files are read, from overrides of `data` and from keys and units given otherwise; `train` is left empty.

    Raises InputError for an override of anything else, and for unknown labels, units and elements.
    """
    known = ("keys", "units", "elements", "accept")
    for name in names_of(overrides):
        if name.split(".")[0] != "data" or name.split(".")[1:2] not in [[key] for key in known]:
            raise InputError(f"{name}: says nothing of how a file is read; known are data.{', data.'.join(known)}")
    content = with_overrides({"data": {}}, overrides)["data"]
    for name, given in (("keys", keys), ("units", units)):
        if given:
            content[name] = {**(content.get(name) or {}), **given}
    return validated(Data, {"train": "", **content}, "the overrides")


def preset_text(name: str) -> str:
    """A preset's YAML. Raises InputError for an unknown name."""
    if name not in preset_names():
        raise InputError(f"no preset {name!r}{nearest(name, preset_names())}; fireassay presets list shows them")
    return files("fireassay.presets").joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The validated configuration of a YAML file or of a preset's name, with overrides. Raises InputError.

    A preset is a recipe and brings the data that it is tried on: with an override of `data.train` nothing is left of
    them but how validation frames are held out.
    """
    path = Path(source)
    preset = not path.is_file()
    if not preset:
        text = read_text(path)
    elif str(source) in preset_names():
        text = preset_text(str(source))
    else:
        hint = nearest(str(source), preset_names())
        raise InputError(f"{source} is neither a file nor a preset{hint}; fireassay presets list shows the presets")
    content = parse_yaml(text, str(source))
    if not isinstance(content, dict):
        raise InputError(f"{source}: found {type(content).__name__}, needs sections such as data, model, training")
    if preset and "data.train" in names_of(overrides):
        kept = content["data"].get("validation", {})
        content["data"] = {"validation": {name: value for name, value in kept.items() if name != "file"}}
    return validated(Config, overridden(content, overrides), str(source))


def overridden(content: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A configuration's values with overrides on top; one that names an assay's protocol resets what that defines.

    So a stored or preset value does not outlive a protocol that was asked for by name. Raises InputError for a text
    that is not an override.
    """
    result = with_overrides(content, [])
    named = with_overrides({}, overrides).get("assays", {})
    for name, value in named.items() if isinstance(named, Mapping) else ():
        stored = result.get("assays", {}).get(name)
        if name in ASSAYS and isinstance(value, Mapping) and "protocol" in value and isinstance(stored, dict):
            for field in ASSAYS[name].settings.defined_by(str(value["protocol"])):
                stored.pop(field, None)
    return with_overrides(result, overrides)


def resolved(config: Config) -> dict[str, Any]:
    """The configuration as plain values with all defaults filled in."""
    content = config.model_dump(mode="json")
    model = content["model"]
    content["model"] = {name: v for name, v in model.items() if not (name in FROM_DATA and v is None)}
    return content


def resolved_yaml(config: Config) -> str:
    """The configuration as YAML with all defaults filled in; reading it gives an equal configuration."""
    return dump_yaml(resolved(config))


def symbol_map(values: Mapping[str, float], where: str) -> dict[int, float]:
    """Values by element symbol as values by atomic number. Raises InputError for an unknown symbol."""
    unknown = [symbol for symbol in values if symbol not in atomic_numbers]
    if unknown:
        raise InputError(f"{where}: {unknown[0]!r} is not an element{nearest(unknown[0], chemical_symbols)}")
    return {atomic_numbers[symbol]: value for symbol, value in values.items()}


def json_schema() -> dict[str, Any]:
    """The JSON schema of a configuration, for editors; models and assays are spelt out."""
    schema = Config.model_json_schema()
    schema["properties"]["assays"] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {name: assay.settings.model_json_schema() for name, assay in ASSAYS.items()},
    }
    return schema
