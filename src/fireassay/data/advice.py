"""How a file's keys and units are named, in the words of the command line; in Python they are arguments of `read`.

Every verb that reads data takes these overrides: train, data inspect, data convert, init.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fireassay.errors import InputError
from fireassay.overrides import parse_yaml


def keys_option(keys: Mapping[str, str | Sequence[str] | None]) -> str:
    """The override that names the keys of labels, None to leave a label out, quoted for a shell."""
    return _option("data.keys", {label: _key(key) for label, key in keys.items()})


def _key(key: str | Sequence[str] | None) -> str:
    if key is None or isinstance(key, str):
        return "null" if key is None else _quoted(key)
    return f"[{', '.join(map(_quoted, key))}]"


def accept_option(kind: str) -> str:
    """The override that takes data as they are although a check of this kind stops."""
    return f'"data.accept=[{kind}]"'


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
