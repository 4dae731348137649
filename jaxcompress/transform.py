"""Transforms: named pairs of pure functions over parameter trees, and how they combine."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxcompress import arrays
from jaxcompress.arrays import CompressedArray, data_fields, is_compressed
from jaxcompress.paths import Params, flatten


class Transform(NamedTuple):
    """Compresses a parameter tree: once by `init`, then after every optimiser step by `update`.

    ``init(params) -> params`` wraps the leaves it selects and returns the tree as it stands at step 0. A leaf that
    already carries this transform (by name) is kept as it is, so that a later stage of training may go on.

    ``update(params, step, *, grads=None, key=None, batch=None) -> params`` never changes the structure, shapes or
    dtypes of the tree, so a training step is traced once.

    `names` mark the leaves that a transform owns, one name for each that it is made of; it touches no others.
    """

    names: tuple[str, ...]
    init: Callable[[Params], Params]
    update: Callable[..., Params]


def identity_update(params: Params, step: Array | int, **_: Any) -> Params:
    """Leaves the tree as it is: the update of a transform whose work is done by `init` and the optimiser."""
    return params


def chain(*transforms: Transform) -> Transform:
    """Applies `transforms` one after the other.

    The order of the chain is the order of nesting: a transform wraps what the earlier ones made of a leaf, and reads
    the value that they give it. Where patterns overlap each transform goes on to update only its own leaves. A second
    `init` keeps the leaves that it finds; a pattern that matches within what a later transform made wraps that then.
    Raises ValueError if two transforms have the same name, since each would undo the other's work.
    """
    names = tuple(name for transform in transforms for name in transform.names)
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"two transforms of a chain are both named {sorted(twice)}; give one another `name`")

    def init(params: Params) -> Params:
        for transform in transforms:
            params = transform.init(params)
        return params

    def update(params: Params, step: Array | int, **extra: Any) -> Params:
        for transform in transforms:
            params = transform.update(params, step, **extra)
        return params

    return Transform(names, init, update)


def every(steps: int, transform: Transform) -> Transform:
    """Updates by `transform` only at steps that are a multiple of `steps`.

    Keep the step itself out of any vmap: a batched condition makes both branches run at every step.
    """
    if steps < 1:
        raise ValueError(f"every={steps} is not a number of steps; it must be at least 1")
    if steps == 1 or transform.update is identity_update:
        return transform

    def update(params: Params, step: Array | int, **extra: Any) -> Params:
        due = jnp.asarray(step) % steps == 0
        return lax.cond(due, lambda p: transform.update(p, step, **extra), lambda p: p, params)

    return Transform(transform.names, transform.init, update)


def owned(params: Params, owner: str) -> list[Any]:
    """Lists the compressed leaves that the transform named `owner` made, however deeply nested."""
    return list(owned_by_path(params, owner).values())


def owned_by_path(params: Params, owner: str) -> dict[str, Any]:
    """Lists the leaves as `owned` does, by path: that of the leaf around them and the fields on the way."""
    found: dict[str, CompressedArray] = {}

    def visit(path: str, leaf: Any) -> Any:
        if is_compressed(leaf) and leaf.owner == owner:
            found[path] = leaf
        elif is_compressed(leaf):
            leaf.map_arrays(lambda field, inner: visit(f"{path}/{field}", inner))
        return leaf

    for path, leaf in flatten(params).items():
        visit(path, leaf)
    return found


def rewrite_owned(params: Params, owner: str, function: Callable[[Any], Any]) -> Params:
    """Replaces every compressed leaf that `owner` made by ``function(leaf)``, however deeply nested."""

    def visit(leaf: Any) -> Any:
        if not is_compressed(leaf):
            return leaf
        if leaf.owner == owner:
            return function(leaf)
        return leaf.map_arrays(lambda _, inner: visit(inner))

    return jax.tree.map(visit, params, is_leaf=is_compressed)


def trainable(params: Params) -> Params:
    """Returns a tree of bools of the same structure: whether gradient descent may move an entry.

    Floating-point arrays may be moved unless they stand in a fixed field of a compressed leaf.
    """

    def visit(leaf: Any) -> Any:
        if not is_compressed(leaf):
            return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        fixed = data_fields(type(leaf))
        return leaf.map_arrays(
            lambda name, inner: jax.tree.map(lambda _: False, inner) if fixed[name.partition("/")[0]] else visit(inner)
        )

    return jax.tree.map(visit, params, is_leaf=is_compressed)


def partition(params: Params) -> tuple[Params, Params]:
    """Splits a tree into `(trainable, fixed)`, each with None in the places of the other.

    Only the first goes to `jax.grad` and the optimiser; masks, codes and scales never do.
    """
    moves = trainable(params)
    kept = jax.tree.map(lambda leaf, move: leaf if move else None, params, moves)
    rest = jax.tree.map(lambda leaf, move: None if move else leaf, params, moves)
    return kept, rest


def combine(trained: Params, fixed: Params) -> Params:
    """Joins what `partition` split."""
    return jax.tree.map(lambda a, b: b if a is None else a, trained, fixed, is_leaf=lambda leaf: leaf is None)


def pack(params: Params) -> Params:
    """Turns every leaf into its storage form; the values that the model sees stay equal in every bit."""
    return jax.tree.map(arrays.pack, params, is_leaf=is_compressed)
