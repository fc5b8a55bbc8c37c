"""What a custom derivative may ask of the backward pass that it is part of."""

from __future__ import annotations

from typing import Any

import torch


def is_wanted(node: Any) -> bool:
    """Whether the backward pass in progress goes on to `node`, the grad_fn of an input (None for a leaf: True).

    `ctx.needs_input_grad` only says that the input requires a gradient. Forces are derivatives to positions alone, and
    what leads to parameters only need not be computed for them.
    """
    try:
        return node is None or torch._C._will_engine_execute_node(node)
    except (AttributeError, RuntimeError):  # not a public function: without it, compute what may not be needed
        return True
