"""Anybody's ASE calculator, named by a text on the command line."""

from __future__ import annotations

import ast
import importlib
from typing import Any

from fireassay.errors import InputError


def calculator_of(text: str) -> Any:
    """An ASE calculator from package.module:Class(key=literal, ...), as given on the command line."""
    try:
        call = ast.parse(text.partition(":")[2] or "", mode="eval").body
        call = call if isinstance(call, ast.Call) else ast.Call(call, [], [])
        if not isinstance(call.func, ast.Name) or call.args:
            raise ValueError("needs keyword arguments only")
        arguments = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        factory = getattr(importlib.import_module(text.partition(":")[0]), call.func.id)
    except (SyntaxError, ValueError, ImportError, AttributeError) as error:
        raise InputError(
            f"calculator {text!r}: {error}; write it as ase.calculators.emt:EMT(asap_cutoff=True)"
        ) from error
    return factory(**arguments)
