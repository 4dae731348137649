"""Pruning a trained model layer by layer from a few batches of inputs, without training it again."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxcompress.arrays import Masked
from jaxcompress.interpreters.axes import Axes, layer_of, matrices
from jaxcompress.interpreters.rows import rows
from jaxcompress.interpreters.uses import Use, axes, uses
from jaxcompress.numerics import sparsegpt as numerics
from jaxcompress.numerics.second_moment import second_moment
from jaxcompress.paths import Params, rewrite, select
from jaxcompress.prune.masking import top
from jaxcompress.prune.patterns import PerOutput, Runs, Single, Structure
from jaxcompress.prune.wrapping import plainly_masked, zeroed
from jaxcompress.transform import Transform, identity_update, owned

Apply = Callable[..., Any]
Solve = Callable[[Array, Array], tuple[Array, Array]]  # layer (*window, inputs, outputs), statistic -> layer, mask


def wanda(
    pattern: str,
    sparsity: float,
    apply: Apply,
    batches: Sequence[Any],
    *,
    structure: Structure = PerOutput(),  # noqa: B008 (frozen)
    name: str | None = None,
) -> Transform:
    """Masks the weights of the smallest ``|w|`` times norm of their input (Sun et al. 2023, arXiv:2306.11695).

    The norm is over all rows that multiply the kernel in ``apply(params, x)``, x of `batches`: inputs of a product,
    patches of a convolution. Weights compete within an output, as in the paper, or by another `structure`: ``Runs`` are
    its N:M variant. Layers follow each other as the program uses them, each on what the pruned ones before it give.
    Done once, by `init`; kept weights stay what they were. Which axes of a kernel are inputs and which outputs is read
    from the model: (d, heads, size) of attention has an output for every head and entry of it, and of a stack, in a
    scan or a batch of products, every layer is pruned by itself,
    all of them on what the whole stack gave before.

    Raises ValueError for a sparsity outside [0, 1], no batches, and, from `init`, for a pattern without a match, leaves
    that are not floating-point arrays or that the structure does not fit, and kernels whose product is not found.
    """

    def solve(weight: Array, squares: Array) -> tuple[Array, Array]:
        split = matrices(weight, len(squares))
        scores = jnp.abs(split.astype(jnp.float32)) * jnp.sqrt(squares)[:, :, None]
        (mask,) = top([layer_of(scores, weight.shape)], sparsity, "uniform", structure)
        return weight, mask

    owner = name or f"wanda[{pattern}, {sparsity:g}]"
    return _layer_by_layer(pattern, sparsity, apply, batches, _squares, 1, solve, structure, owner)


def sparsegpt(
    pattern: str,
    sparsity: float,
    apply: Apply,
    batches: Sequence[Any],
    *,
    structure: Single | Runs = Single(),  # noqa: B008 (frozen)
    damping: float = 0.01,
    name: str | None = None,
) -> Transform:
    """Masks weights and moves those that stay so that the outputs of each layer change least (Frantar & Alistarh 2023).

    arXiv:2301.00774; the rounds, blocks and `damping` are those of `numerics.sparsegpt`, which is given the second
    moment of all rows that multiply the kernel in ``apply(params, x)``, x of `batches`. Exactly `sparsity` of each
    kernel goes (of each group of a grouped convolution), or its share of each of `Runs` along axis -2. Layers follow
    each other as the program uses them, each on what the pruned ones before it give. Done once, by `init`.

    Raises ValueError as `wanda` does, and for a damping that is not positive and runs along another axis.
    """
    _check_damping(pattern, damping)
    if isinstance(structure, Runs) and structure.axis != -2:
        raise ValueError(f"runs for pattern {pattern!r} go along axis -2, the inputs, not {structure.axis}")
    if not isinstance(structure, Single | Runs):
        raise ValueError(f"structure {structure!r} for pattern {pattern!r} is neither Single() nor Runs")
    run = structure.size if isinstance(structure, Runs) else None
    solve = partial(numerics.sparsegpt, sparsity=sparsity, run=run, damping=damping)
    owner = name or f"sparsegpt[{pattern}, {sparsity:g}]"
    return _layer_by_layer(pattern, sparsity, apply, batches, second_moment, 2, _grouped(solve), structure, owner)


def optimal_brain_surgeon(
    pattern: str,
    sparsity: float,
    apply: Apply,
    batches: Sequence[Any],
    *,
    damping: float = 0.01,
    name: str | None = None,
) -> Transform:
    """Masks weights one at a time, the others making up for each exactly (Hassibi & Stork 1993), layer by layer.

    Every output keeps the same number of weights. For small layers: `numerics.sparsegpt` has the method and its cost.
    Layers, `batches` and `damping` are those of `sparsegpt`, and so are the errors raised.
    """
    _check_damping(pattern, damping)
    solve = partial(numerics.optimal_brain_surgeon, sparsity=sparsity, damping=damping)
    owner = name or f"optimal_brain_surgeon[{pattern}, {sparsity:g}]"
    return _layer_by_layer(pattern, sparsity, apply, batches, second_moment, 2, _grouped(solve), PerOutput(), owner)


def _layer_by_layer(
    pattern: str,
    sparsity: float,
    apply: Apply,
    batches: Sequence[Any],
    statistic: Callable[[Array], Array],
    entry_axes: int,
    solve: Solve,
    structure: Structure,
    owner: str,
) -> Transform:
    """Makes the transform whose `init` solves for each kernel, by a `statistic` of its rows summed over batches.

    It has `entry_axes` axes for each matrix of the kernel: of a group, and of a layer of a stack.
    """
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity {sparsity:g} for pattern {pattern!r} is not a fraction in [0, 1]")
    if not len(batches):
        raise ValueError(f"{owner} needs at least one batch of inputs")

    def measure(use: Use) -> Array | None:
        found = rows(use)
        return None if found is None else statistic(found.astype(jnp.float32))

    def pruned(path: str, weight: Array, of: Axes, params: Params) -> Masked:
        layers = of.layers(weight)
        total = _summed(path, params, uses(apply, measure), batches)
        by_layer = total.reshape(len(layers), of.groups, *total.shape[total.ndim - entry_axes :])
        solved = [solve(layer, each) for layer, each in zip(layers, by_layer, strict=True)]
        weights, masks = (of.kernel(jnp.stack(part), weight.shape) for part in zip(*solved, strict=True))
        return zeroed(Masked(weights, masks, owner))

    def init(params: Params) -> Params:
        leaves = select(params, pattern)
        for path, leaf in leaves.items():
            plainly_masked(path, leaf, owner)
        order = list(jax.eval_shape(uses(apply, lambda use: use.output), params, batches[0]))
        unused = [path for path in leaves if path not in order]
        if unused:
            raise ValueError(f"no product or convolution with {', '.join(unused)} is found in the model")
        table = axes(apply, params, pattern, batches[0])
        for path, leaf in leaves.items():
            structure.check(path, table[path].layer_shape(leaf.shape))
        for path in order:
            if path in leaves and not owned(leaves[path], owner):
                leaf = pruned(path, leaves[path], table[path], params)
                params = rewrite(params, re.escape(path), lambda _, __, leaf=leaf: leaf)
        return params

    return Transform((owner,), init, identity_update)


def _summed(path: str, params: Params, measured: Apply, batches: Sequence[Any]) -> Array:
    """Sums the statistic of all rows that multiply one kernel; raises ValueError if they are not known."""
    measure = jax.jit(lambda params, x: measured(params, x)[path])
    found = [each for x in batches for each in measure(params, x)]
    if any(each is None for each in found):
        where = "in a transposed convolution, or reversed"
        raise ValueError(f"{path} is not used as a kernel whose inputs are known: {where}")
    total = jnp.sum(jnp.stack(found), axis=0)
    if not bool(jnp.all(jnp.isfinite(total))):
        raise ValueError(f"the inputs of {path} are not finite on the batches given")
    return total


def _squares(rows: Array) -> Array:
    return jnp.sum(rows**2, axis=1)


def _grouped(solve: Solve) -> Solve:
    """Solves for each group of a kernel's outputs by its own moment."""

    def by_group(weight: Array, moments: Array) -> tuple[Array, Array]:
        split = matrices(weight, len(moments))
        solved = [solve(w, m) for w, m in zip(split, moments, strict=True)]
        pruned, masks = (jnp.stack(part) for part in zip(*solved, strict=True))
        return layer_of(pruned, weight.shape), layer_of(masks, weight.shape)

    return by_group


def _check_damping(pattern: str, damping: float) -> None:
    if not 0 < damping < float("inf"):
        raise ValueError(f"damping {damping!r} for pattern {pattern!r} is not a positive number")
