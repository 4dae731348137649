"""Whether factors pay: what a model costs with them and without, counted or measured."""

import time
import warnings
from collections.abc import Callable
from typing import Any

import jax

from jaxcompress.arrays import Factored
from jaxcompress.factorize.factoring import Declined
from jaxcompress.interpreters.cost import macs
from jaxcompress.interpreters.lift import lift
from jaxcompress.paths import Params, flatten, replaced

Cost = Callable[[Params], float]


def paying(params: Params, factored: Params, cost: Cost) -> Params:
    """Returns the factorized parameters, but for those kernels that it costs less to keep: they are as in `params`.

    A kernel is kept factorized if ``cost`` is less for `params` with that one factorized than for `params` as they are,
    so that strides, which a transform does not see, count. `multiply_adds` and `seconds` are such costs. What is
    declined is told by a `Declined` warning.
    """
    plain, made = flatten(params), flatten(factored)
    whole = cost(params)
    kept = dict(made)
    for path, leaf in made.items():
        if isinstance(leaf, Factored) and not isinstance(plain[path], Factored):
            alone = cost(replaced(params, {path: leaf}))
            if alone >= whole:
                told = f"{path} stays as it is: the model would cost {alone:.6g} with its factors, {whole:.6g} without"
                warnings.warn(told, Declined, stacklevel=2)
                kept[path] = plain[path]
    return replaced(factored, kept)


def multiply_adds(apply: Callable[..., Any], *args: Any) -> Callable[[Params], int]:
    """Returns the cost of parameters in multiply-adds of ``apply(params, *args)``, which need not be lifted."""
    lifted = lift(apply)
    return lambda params: macs(lifted, params, *args)


def seconds(apply: Callable[..., Any], *args: Any, repeats: int = 50) -> Cost:
    """Returns the cost of parameters in seconds of ``apply(params, *args)``, compiled, on this machine as it is now.

    The least of `repeats` calls, which other work on the machine disturbs least.
    """
    compiled = jax.jit(lift(apply))

    def measure(params: Params) -> float:
        jax.block_until_ready(compiled(params, *args))
        taken = []
        for _ in range(repeats):
            start = time.perf_counter()
            jax.block_until_ready(compiled(params, *args))
            taken.append(time.perf_counter() - start)
        return min(taken)

    return measure
