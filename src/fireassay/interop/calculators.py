"""Anybody's ASE calculator, named by a text on the command line."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path
from typing import Any

from fireassay.errors import InputError
from fireassay.interop.ase import one_line

EXAMPLE = "ase.calculators.emt:EMT(asap_cutoff=True)"


def calculator_of(text: str) -> Any:
    """An ASE calculator from package.module:Class(key=literal, ...), as given on the command line.

    The module is looked for in the current folder first. Raises InputError, in one line, when the text is of another
    form, the module cannot be imported, the class refuses its arguments, or what it makes is no ASE calculator.
    """
    module, _, call = text.partition(":")
    try:
        if not call:
            raise ValueError("it needs a class after a colon")
        tree = ast.parse(call, mode="eval").body
        tree = tree if isinstance(tree, ast.Call) else ast.Call(tree, [], [])
        if not isinstance(tree.func, ast.Name) or tree.args or not all(k.arg for k in tree.keywords):
            raise ValueError("it needs a class and keyword arguments only")
        arguments = {str(k.arg): ast.literal_eval(k.value) for k in tree.keywords}
    except (SyntaxError, ValueError) as error:
        raise InputError(f"calculator {text!r}: {one_line(error)}; write it as {EXAMPLE}") from error
    sys.path.insert(0, str(Path.cwd()))  # as python -m would; a console script does not
    try:
        made = getattr(importlib.import_module(module), tree.func.id)(**arguments)
    except Exception as error:  # an import runs anybody's code
        raise InputError(f"calculator {text!r}: {one_line(error)}; write it as {EXAMPLE}") from error
    finally:
        sys.path.remove(str(Path.cwd()))
    lacking = [
        name for name in ("get_potential_energy", "get_forces", "implemented_properties") if not hasattr(made, name)
    ]
    if lacking:
        raise InputError(
            f"calculator {text!r} makes a {type(made).__name__}, which has no {lacking[0]}; name an ASE calculator, "
            f"such as {EXAMPLE}"
        )
    return made
