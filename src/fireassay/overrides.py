"""YAML of plain values, and `a.b=value` on top of it."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import yaml

from fireassay.errors import InputError


class _Loader(yaml.SafeLoader):
    """The safe loader with the scalars of YAML 1.2, which refuses a key given twice.

    So `off`, `no` and dates are the texts that they look like, and 1e-3 is a number.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}


def _unique_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    twice = [key for number, key in enumerate(keys) if key in keys[:number]]
    if twice:
        raise yaml.constructor.ConstructorError(None, None, f"the key {twice[0]!r} is given twice", node.start_mark)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(str(loader.construct_scalar(node)))


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)
_Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
     list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
):  # fmt: skip
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)


class _Dumper(yaml.SafeDumper):
    """The safe dumper, which quotes a text that a reader of YAML 1.1 or of 1.2 would take for something else."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {
        first: [
            *yaml.SafeDumper.yaml_implicit_resolvers.get(first, ()),
            *_Loader.yaml_implicit_resolvers.get(first, ()),
        ]
        for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_Loader.yaml_implicit_resolvers}
    }


def dump_yaml(content: Any, flow: bool = False) -> str:
    """Plain values as YAML, in their order; with `flow` everything below the first level stands on one line."""
    if flow:
        return "".join(f"{key}: {_in_line(value)}\n" for key, value in content.items())
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _in_line(value: Any) -> str:
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100_000, default_flow_style=True)
    return text.removesuffix("...\n").strip()


def parse_yaml(text: str, where: str) -> Any:
    """YAML of plain values. Raises InputError for anything else, tags included; never executes any of it."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise InputError(f"{where}{place}: {problem}; only plain YAML values are read") from error


def with_overrides(content: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy with `a.b=value` applied, the value read as YAML. Raises InputError for a text of another form."""
    result = dict(copy.deepcopy(content))
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


def names_of(overrides: Sequence[str]) -> set[str]:
    """The dotted names that are set."""
    return {override.partition("=")[0] for override in overrides}
