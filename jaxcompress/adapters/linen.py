"""Linen models as a function and a parameter tree."""

from collections.abc import Callable, Mapping
from typing import Any

from flax import linen

from jaxcompress.interpreters.lift import lift
from jaxcompress.paths import Params


def functional(module: linen.Module, variables: Mapping[str, Any]) -> tuple[Callable[..., Any], Params]:
    """Splits a Linen model into `(apply, params)`, where ``apply(params, *args)`` runs it on compressed leaves too.

    `variables` is what ``module.init`` returned; collections other than ``params`` (batch statistics) are closed over.
    Raises ValueError if it has no ``params``.
    """
    if "params" not in variables:
        raise ValueError(f"the variables have no collection 'params'; there are {sorted(variables)}")
    rest = {name: value for name, value in variables.items() if name != "params"}

    def apply(params: Params, *args: Any, **kwargs: Any) -> Any:
        return module.apply({**rest, "params": params}, *args, **kwargs)

    return lift(apply), variables["params"]
