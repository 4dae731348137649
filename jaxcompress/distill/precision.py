"""The precision in which losses are computed: float32 at least."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

P = ParamSpec("P")
R = TypeVar("R")


def in_float32(loss: Callable[P, R]) -> Callable[P, R]:
    """Makes a loss take all its arrays of half precision as float32, in which it computes and answers.

    Sums over a vocabulary or the places of a map lose most of their digits in bfloat16, and squares leave the range of
    float16. Wider arrays stay as they are, and gradients come back in the dtype of what they are of.
    """

    @functools.wraps(loss)
    def widening(*args: P.args, **kwargs: P.kwargs) -> R:
        return loss(*widened(args), **widened(kwargs))  # pyright: ignore[reportCallIssue]

    return widening


def widened(tree: Any) -> Any:
    """Returns a tree with its floating point arrays of less than 32 bits as float32."""
    return jax.tree.map(_widened, tree)


def _widened(leaf: Any) -> Any:
    if not isinstance(leaf, jax.Array | np.ndarray | np.generic) or not jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf
    return leaf.astype(jnp.float32) if jnp.finfo(leaf.dtype).bits < 32 else leaf
