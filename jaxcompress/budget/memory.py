"""The memory of activations as a cost."""

from collections.abc import Callable
from typing import Any

from jaxcompress.budget.levels import Cost
from jaxcompress.interpreters import memory
from jaxcompress.paths import Params


def excess_memory(apply: Callable[[Params, Any], Any], example: Any, allowed: int) -> Cost:
    """Returns a cost for `levels_within`: the bytes of activations beyond those `allowed`, summed over all operations.

    A peak does not add up over layers, but this does, since what becomes of a kernel changes the memory of its own
    operations alone, as `jaxcompress.memory` lists them; with a budget of 0 the `jaxcompress.peak_memory` of what is
    chosen is at most `allowed`. ``apply(params, example)`` is lifted.
    """
    return lambda params: sum(max(0, alive - allowed) for alive in memory(apply, params, example))
