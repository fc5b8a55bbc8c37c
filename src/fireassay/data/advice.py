"""How a file's keys and units are named, in the words of the command line; in Python they are arguments of `read`."""

from __future__ import annotations

from collections.abc import Mapping

from fireassay.errors import InputError
from fireassay.overrides import parse_yaml


def keys_option(keys: Mapping[str, str | None]) -> str:
    """The override that names the keys of labels, None to leave a label out, quoted for a shell."""
    return _option("data.keys", {label: "null" if key is None else _quoted(key) for label, key in keys.items()})


def units_option(units: Mapping[str, str]) -> str:
    """The override that names units, quoted for a shell."""
    return _option("data.units", {quantity: _quoted(unit) for quantity, unit in units.items()})


def _option(name: str, values: Mapping[str, str]) -> str:
    return f'"{name}={{{", ".join(f"{key}: {value}" for key, value in values.items())}}}"'


def _quoted(text: str) -> str:
    """The text as it stands where YAML takes it for itself, else in single quotes."""
    try:
        plain = '"' not in text and parse_yaml(f"{{a: {text}}}", "") == {"a": text}
    except InputError:
        plain = False
    return text if plain else "'" + text.replace("'", "''") + "'"
