"""YAML to objects and back: the only file where a string picks a class.

A configuration is YAML plus dotted overrides (`training.epochs=50`). It is parsed by a safe loader, so a tag in it is
an error and never code; it is validated by pydantic, so a misspelt key is an error that names the nearest known one.
The `model` section is read from the constructor's signature of the class that `type` picks.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_type_hints

import safetensors
import safetensors.torch
import torch
import yaml
from ase.data import atomic_numbers, chemical_symbols
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, field_validator

from fireassay.assays import ASSAYS
from fireassay.errors import InputError, nearest
from fireassay.kernels import KERNELS
from fireassay.models import MODELS
from fireassay.potential import Baseline, LocalPotential, LocalSum, Potential, Sum
from fireassay.records import atomic
from fireassay.settings import Settings
from fireassay.training.recipe import Recipe

FORMAT = "fireassay-potential"
FORMAT_VERSION = 1
FROM_DATA = ("species", "average_neighbours", "seed")  # constructor arguments that the data or the seed supply
WRAPPERS: dict[str, type[Potential]] = {"baseline": Baseline, "sum": Sum, "local_sum": LocalSum, **KERNELS}


class Validation(Settings):
    """Where the validation frames come from: a file of their own, or a split of the training file."""

    file: str | None = Field(default=None, description="a file of its own; the split below is then not used")
    method: Literal["random", "blocks", "group", "temperature"] = Field(
        default="random", description="how the frames are split off"
    )
    fraction: float = Field(default=0.1, ge=0, lt=1, description="share of the training file's frames")
    count: int | None = Field(default=None, ge=0, description="number of frames; overrides the fraction")
    gap: int = Field(default=0, ge=0, description="frames left out between the blocks, for method blocks")


class Data(Settings):
    """Files (extended XYZ, npz, ASE db, DeePMD folders) or embedded sets such as 3bpa-xtb/train_300K."""

    train: str = Field(description="training frames")
    validation: Validation = Validation()
    test: dict[str, str] = Field(default_factory=dict, description="test splits by name, such as {300K: test_300K.xyz}")
    start: str | None = Field(
        None, description="start of the stability assay; default: the first test or training frame"
    )
    isolated_atoms: str | None = Field(default=None, description="file of isolated atoms, for baseline.e0 = isolated")
    keys: dict[str, str | None] | None = Field(
        default=None, description="label keys in the files, such as {energy: energy_xtb}"
    )
    units: dict[str, str] | None = Field(default=None, description="units in the files, such as {energy: kcal/mol}")
    limit: int | None = Field(
        default=None, ge=1, description="use at most this many training frames, drawn with the seed"
    )


class BaselineConfig(Settings):
    """What lies under the network: isolated-atom energies, and the scale of its output."""

    e0: Literal["fit", "isolated", "zero"] | dict[str, float] = Field(
        default="fit",
        description="least squares on compositions; read from data.isolated_atoms; zero; or eV by element symbol",
    )
    scale: Literal["force_rms", "none"] | float | dict[str, float] = Field(
        default="force_rms", description="eV per unit of the network's output (rescaling on), or none (rescaling off)"
    )
    shift: Literal["mean", "none"] | float = Field(
        default="none", description="eV per atom added to every atom of a structure"
    )
    trainable_scale: bool = False
    trainable_shift: bool = False


class Config(Settings):
    """A whole run: data, model, training, assays."""

    name: str = Field(
        default="potential", pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._+-]*$", description="name in tables and figures"
    )
    description: str = Field(default="", description="free text: the paper and the table that a preset reproduces")
    seed: int = 0
    dtype: Literal["float32", "float64"] = "float32"
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, ...")
    data: Data
    model: dict[str, Any] = Field(description=f"type: {' | '.join(MODELS)}, and the arguments of its constructor")
    baseline: BaselineConfig = BaselineConfig()
    training: Recipe = Recipe()
    assays: dict[str, dict[str, Any]] = Field(
        default_factory=lambda: {name: {} for name in ASSAYS}, description="the assays to run, each with its settings"
    )

    @field_validator("model")
    @classmethod
    def _known_model(cls, value: dict[str, Any]) -> dict[str, Any]:
        validate_model(value)
        return value

    @field_validator("assays")
    @classmethod
    def _known_assays(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, settings in value.items():
            if name not in ASSAYS:
                raise ValueError(f"unknown assay {name!r}{nearest(name, ASSAYS)}; known are {', '.join(ASSAYS)}")
            validated(ASSAYS[name].settings, settings, f"assays.{name}")
        return value


class _Loader(yaml.SafeLoader):
    """The safe loader, which also refuses a key given twice."""


def _unique_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    twice = [key for number, key in enumerate(keys) if key in keys[:number]]
    if twice:
        raise yaml.constructor.ConstructorError(None, None, f"the key {twice[0]!r} is given twice", node.start_mark)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def parse_yaml(text: str, where: str) -> Any:
    """YAML of plain values. Raises InputError for anything else, tags included; never executes any of it."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise InputError(f"{where}{place}: {problem}; only plain YAML values are read") from error


def with_overrides(content: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy with `a.b=value` applied, the value read as YAML. Raises InputError for a text of another form."""
    result = json.loads(json.dumps(content))
    for override in overrides:
        path, equals, value = override.partition("=")
        if not equals or not path:
            raise InputError(f"{override!r} is not an override; write it as training.epochs=50")
        *parents, last = path.split(".")
        place = result
        for key in parents:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise InputError(f"{override!r}: {key!r} is a value, not a section")
        place[last] = parse_yaml(value, override)
    return result


def preset_names() -> list[str]:
    """The presets that ship, in alphabetical order."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in files("fireassay.presets").iterdir()
        if entry.name.endswith(".yaml")
    )


def preset_text(name: str) -> str:
    """A preset's YAML. Raises InputError for an unknown name."""
    if name not in preset_names():
        raise InputError(f"no preset {name!r}{nearest(name, preset_names())}; fireassay presets list shows them")
    return files("fireassay.presets").joinpath(f"{name}.yaml").read_text()


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The validated configuration of a YAML file or of a preset's name, with overrides. Raises InputError."""
    path = Path(source)
    if path.is_file():
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read {path}: {error}") from error
    elif str(source) in preset_names():
        text = preset_text(str(source))
    else:
        hint = nearest(str(source), preset_names())
        raise InputError(f"{source} is neither a file nor a preset{hint}; fireassay presets list shows the presets")
    content = parse_yaml(text, str(source))
    if not isinstance(content, dict):
        raise InputError(f"{source}: found {type(content).__name__}, needs sections such as data, model, training")
    return validated(Config, with_overrides(content, overrides), str(source))


def validated(schema: type[Any], content: Any, where: str) -> Any:
    """`content` as an object of `schema`. Raises InputError with one line that names every wrong key."""
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{where}: {_one_line(error, schema)}") from error


def _one_line(error: ValidationError, schema: type[BaseModel]) -> str:
    messages = []
    for entry in error.errors():
        place = ".".join(str(part) for part in entry["loc"])
        if entry["type"] == "extra_forbidden":
            known = _known_keys(schema, entry["loc"][:-1])
            messages.append(f"unknown key {place}{nearest(str(entry['loc'][-1]), known)}")
        elif entry["type"] == "missing":
            messages.append(f"{place} is missing")
        else:
            text = entry["msg"].removeprefix("Value error, ")
            given = "" if isinstance(entry["input"], dict) else f" (got {entry['input']!r})"
            messages.append(f"{place}: {text}{given}")
    return "; ".join(dict.fromkeys(messages))


def _known_keys(schema: type[BaseModel], location: tuple[str | int, ...]) -> list[str]:
    current: Any = schema
    for part in location:
        fields = getattr(current, "model_fields", {})
        if part not in fields:
            break
        annotation = fields[part].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        current = next((o for o in options if inspect.isclass(o) and issubclass(o, BaseModel)), None)
    return list(getattr(current, "model_fields", {}))


def model_schema(name: str) -> type[BaseModel]:
    """The settings of a model, read from its constructor; what the data supplies may be left out."""
    constructor = MODELS[name].__init__
    hints = get_type_hints(constructor)
    fields: dict[str, Any] = {}
    for parameter in list(inspect.signature(constructor).parameters.values())[1:]:
        hint, default = hints[parameter.name], parameter.default
        if parameter.name in FROM_DATA:
            hint, default = hint | None, None
        fields[parameter.name] = (hint, ... if default is inspect.Parameter.empty else default)
    config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)
    return create_model(MODELS[name].__name__, __config__=config, **fields)


def validate_model(section: Mapping[str, Any]) -> dict[str, Any]:
    """The model's constructor arguments with defaults. Raises InputError for an unknown type or argument."""
    name = section.get("type")
    if not isinstance(name, str) or name not in MODELS:
        hint = nearest(str(name), MODELS)
        raise InputError(f"model.type is {name!r}{hint}; known are {', '.join(MODELS)}")
    arguments = {key: value for key, value in section.items() if key != "type"}
    return validated(model_schema(name), arguments, f"model ({name})").model_dump()


def build_network(section: Mapping[str, Any], from_data: Mapping[str, Any]) -> LocalPotential:
    """The network of a `model` section; `from_data` fills the arguments that the section leaves out."""
    arguments = validate_model(section)
    for name, value in from_data.items():
        if name in arguments and arguments[name] is None:
            arguments[name] = value
    return MODELS[section["type"]](**arguments)


def describe(potential: Potential) -> dict[str, Any]:
    """The potential's architecture as JSON: its type and constructor arguments, wrapped potentials included."""
    classes: dict[str, type] = {**MODELS, **WRAPPERS}
    name = next((name for name, cls in classes.items() if type(potential) is cls), None)
    if name is None:
        raise InputError(f"a {type(potential).__name__} cannot be saved: it is none of {', '.join(classes)}")
    arguments = {key: _described(value) for key, value in potential.arguments.items()}
    return {"type": name, "arguments": arguments}


def _described(value: Any) -> Any:
    if isinstance(value, Potential):
        return describe(value)
    if isinstance(value, list | tuple):
        return [_described(item) for item in value]
    return value


def rebuild(description: Mapping[str, Any]) -> Potential:
    """The potential of a description, with fresh weights. Raises InputError when it is not one of ours."""
    classes: dict[str, type[Potential]] = {**MODELS, **WRAPPERS}
    name = description.get("type")
    if name not in classes:
        raise InputError(f"the potential's type is {name!r}; this version knows {', '.join(classes)}")
    try:
        arguments = {key: _rebuilt(value) for key, value in description["arguments"].items()}
        return classes[name](**arguments)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"the description of a {name} does not fit this version: {error}") from error


def _rebuilt(value: Any) -> Any:
    if isinstance(value, Mapping) and set(value) == {"type", "arguments"}:
        return rebuild(value)
    if isinstance(value, list):
        return [_rebuilt(item) for item in value]
    return value


def save_potential(potential: Potential, path: Path, extra: Mapping[str, str] | None = None) -> None:
    """Weights as safetensors, the architecture as JSON in the header; `extra` is further metadata, texts only."""
    dtype = next((p.dtype for p in potential.parameters()), torch.float64)
    metadata = {
        "format": FORMAT,
        "version": str(FORMAT_VERSION),
        "dtype": str(dtype).removeprefix("torch."),
        "potential": json.dumps(describe(potential)),
        **(extra or {}),
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in potential.state_dict().items()}
    with atomic(path) as file:
        file.write(safetensors.torch.save(tensors, metadata))


def load_potential(path: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Potential:
    """The potential of a file that `save_potential` wrote, in evaluation mode; no code of the file is executed.

    Raises InputError when the file is missing, cut short, of another format or version.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except Exception as error:
        raise InputError(
            f"cannot read {path} as a potential: {error}; it is missing, cut short or not safetensors"
        ) from error
    if metadata.get("format") != FORMAT or metadata.get("version") != str(FORMAT_VERSION):
        found = f"{metadata.get('format')} version {metadata.get('version')}"
        raise InputError(f"{path} is {found}; this fireassay reads {FORMAT} version {FORMAT_VERSION}")
    try:
        potential = rebuild(json.loads(metadata["potential"]))
        potential = potential.to(
            getattr(torch, metadata["dtype"]) if metadata["dtype"] in ("float32", "float64") else None
        )
        potential.load_state_dict(tensors)
    except (KeyError, RuntimeError, json.JSONDecodeError) as error:
        text = " ".join(str(error).split())[:300]
        raise InputError(f"{path}: weights and architecture do not belong together: {text}") from error
    return potential.to(device=device, dtype=dtype).eval()


def resolved_yaml(config: Config) -> str:
    """The configuration as YAML with all defaults filled in; reading it gives an equal configuration."""
    content = config.model_dump(mode="json")
    content["model"] = {"type": content["model"]["type"], **_plain_arguments(content["model"])}
    content["assays"] = {
        name: validated(ASSAYS[name].settings, settings, f"assays.{name}").model_dump(mode="json")
        for name, settings in content["assays"].items()
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


def _plain_arguments(section: Mapping[str, Any]) -> dict[str, Any]:
    arguments = json.loads(json.dumps(validate_model(section)))
    return {key: value for key, value in arguments.items() if not (key in FROM_DATA and value is None)}


def symbol_map(values: Mapping[str, float], where: str) -> dict[int, float]:
    """Values by element symbol as values by atomic number. Raises InputError for an unknown symbol."""
    unknown = [symbol for symbol in values if symbol not in atomic_numbers]
    if unknown:
        raise InputError(f"{where}: {unknown[0]!r} is not an element{nearest(unknown[0], chemical_symbols)}")
    return {atomic_numbers[symbol]: value for symbol, value in values.items()}


def json_schema() -> dict[str, Any]:
    """The JSON schema of a configuration, for editors; models and assays are spelt out."""
    schema = Config.model_json_schema()
    models = []
    for name in MODELS:
        entry = model_schema(name).model_json_schema()
        entry["properties"]["type"] = {"const": name}
        entry["required"] = ["type", *entry.get("required", [])]
        models.append(entry)
    schema["properties"]["model"] = {"oneOf": models}
    schema["properties"]["assays"] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {name: assay.settings.model_json_schema() for name, assay in ASSAYS.items()},
    }
    return schema
