"""YAML of plain values reads as it looks, and comes back from its own text."""

from __future__ import annotations

import pytest
import yaml

from fireassay.errors import InputError
from fireassay.overrides import dump_yaml, names_of, parse_yaml, with_overrides


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("off", "off"),
        ("yes", "yes"),
        ("2024-01-01", "2024-01-01"),
        ("12:30:45", "12:30:45"),
        ("1e-3", 1e-3),
        ("-4", -4),
        ("007", 7),
        (".5", 0.5),
        ("true", True),
        ("null", None),
        ("", None),
        ("{a: null, 300K: [1, 2.5, x]}", {"a": None, "300K": [1, 2.5, "x"]}),
    ],
)
def test_scalars_are_what_they_look_like(text, value):
    found = parse_yaml(text, "here")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "value",
    ["off", "no", "on", "1e5", "2024-01-01", "1", "1.5", "null", "~", "true", "", "12:30", "a: b", "#x", "Å", "<<"],
)
def test_texts_stay_texts_for_readers_of_either_version(value):
    text = dump_yaml({"name": value})
    assert parse_yaml(text, "here") == {"name": value}
    assert yaml.safe_load(text) == {"name": value}


def test_overrides_do_not_change_what_they_are_applied_to():
    content = {"data": {"test": {"a": 1}}}
    changed = with_overrides(content, ["data.test.b=2", "name=x"])
    assert content == {"data": {"test": {"a": 1}}}
    assert changed == {"data": {"test": {"a": 1, "b": 2}}, "name": "x"}
    assert names_of(["a.b=1", "c=2"]) == {"a.b", "c"}


@pytest.mark.parametrize("override", ["epochs", "=3", "data.train.x=1"])
def test_what_is_no_override_is_said(override):
    with pytest.raises(InputError):
        with_overrides({"data": {"train": "x.xyz"}}, [override])
