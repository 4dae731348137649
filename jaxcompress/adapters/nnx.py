"""NNX models as a function and a parameter tree."""

from collections.abc import Callable
from typing import Any

from flax import nnx

from jaxcompress.interpreters.lift import lift
from jaxcompress.paths import Params


def functional(module: nnx.Module) -> tuple[Callable[..., Any], Params]:
    """Splits an NNX model into `(apply, params)`, where ``apply(params, *args)`` runs it on compressed leaves too.

    The parameters become nested dicts with text keys, since `jax.export` cannot store the integer keys that NNX gives
    to lists of layers. All other state is closed over as it stands; what a call changes in it is not kept.
    """
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    pure = nnx.to_pure_dict(params)

    def apply(params_by_text: Params, *args: Any, **kwargs: Any) -> Any:
        state = nnx.State(_with_keys_of(pure, params_by_text))
        return nnx.merge(graph, state, rest, copy=True)(*args, **kwargs)  # a call must not change `rest`

    return lift(apply), _with_text_keys(pure)


def _with_text_keys(tree: Any) -> Any:
    return {str(key): _with_text_keys(value) for key, value in tree.items()} if isinstance(tree, dict) else tree


def _with_keys_of(template: Any, tree: Any) -> Any:
    if not isinstance(template, dict):
        return nnx.Param(tree)
    return {key: _with_keys_of(value, tree[str(key)]) for key, value in template.items()}
