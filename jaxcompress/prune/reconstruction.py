"""Pruning a trained model layer by layer from a few batches of inputs, without training it again."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxcompress.arrays import Masked
from jaxcompress.interpreters.rows import rows
from jaxcompress.interpreters.uses import Use, uses
from jaxcompress.numerics import sparsegpt as numerics
from jaxcompress.numerics.second_moment import second_moment
from jaxcompress.paths import Params, rewrite, select
from jaxcompress.prune.masking import top
from jaxcompress.prune.patterns import PerOutput, Runs, Single, Structure
from jaxcompress.prune.wrapping import plainly_masked, zeroed
from jaxcompress.transform import Transform, identity_update, owned

Apply = Callable[..., Any]
Solve = Callable[[Array, Array], tuple[Array, Array]]  # weight, statistic of its inputs -> weight, mask


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
    Done once, by `init`; kept weights stay what they were.

    Raises ValueError for a sparsity outside [0, 1], no batches, and, from `init`, for a pattern without a match, leaves
    that are not floating-point arrays or that the structure does not fit, and kernels whose product is not found.
    """

    def solve(weight: Array, squares: Array) -> tuple[Array, Array]:
        split = _by_group(weight, len(squares))
        scores = jnp.abs(split.astype(jnp.float32)) * jnp.sqrt(squares)[:, :, None]
        (mask,) = top([_whole(scores, weight.shape)], sparsity, "uniform", structure)
        return weight, mask

    owner = name or f"wanda[{pattern}, {sparsity:g}]"
    return _layer_by_layer(pattern, sparsity, apply, batches, _squares, solve, structure, owner)


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
    return _layer_by_layer(pattern, sparsity, apply, batches, second_moment, _grouped(solve), structure, owner)


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
    return _layer_by_layer(pattern, sparsity, apply, batches, second_moment, _grouped(solve), PerOutput(), owner)


def _layer_by_layer(
    pattern: str,
    sparsity: float,
    apply: Apply,
    batches: Sequence[Any],
    statistic: Callable[[Array], Array],
    solve: Solve,
    structure: Structure,
    owner: str,
) -> Transform:
    """Makes the transform whose `init` solves for each kernel, by a `statistic` of its rows summed over batches."""
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity {sparsity:g} for pattern {pattern!r} is not a fraction in [0, 1]")
    if not len(batches):
        raise ValueError(f"{owner} needs at least one batch of inputs")

    def measure(use: Use) -> tuple[Array, Array] | None:
        found = rows(use)
        return None if found is None else (use.weight, statistic(found.astype(jnp.float32)))

    def init(params: Params) -> Params:
        leaves = select(params, pattern)
        for path, leaf in leaves.items():
            plainly_masked(path, leaf, owner)
            structure.check(path, leaf.shape)
        order = list(jax.eval_shape(uses(apply, lambda use: use.output), params, batches[0]))
        unused = [path for path in leaves if path not in order]
        if unused:
            raise ValueError(f"no product or convolution with {', '.join(unused)} is found in the model")
        for path in order:
            if path in leaves and not owned(leaves[path], owner):
                weight, mask = solve(leaves[path], _summed(path, leaves[path], params, uses(apply, measure), batches))
                leaf = zeroed(Masked(weight, mask, owner))
                params = rewrite(params, re.escape(path), lambda _, __, leaf=leaf: leaf)
        return params

    return Transform((owner,), init, identity_update)


def _summed(path: str, weight: Array, params: Params, measured: Apply, batches: Sequence[Any]) -> Array:
    """Sums the statistic of all rows that multiply one kernel; raises ValueError if it is not used as one."""
    measure = jax.jit(lambda params, x: measured(params, x)[path])
    found = [each for x in batches for each in measure(params, x)]
    # A transposed square kernel has the shape of a kernel, but not its entries.
    stands = [each is not None and each[0].shape == weight.shape and _equal(each[0], weight) for each in found]
    if not all(stands) or found[0][1].shape[1] * weight.shape[-1] != weight.size:
        raise ValueError(f"{path} of shape {weight.shape} is not used as a kernel (…, inputs, outputs)")
    total = jnp.sum(jnp.stack([statistic for _, statistic in found]), axis=0)
    if not bool(jnp.all(jnp.isfinite(total))):
        raise ValueError(f"the inputs of {path} are not finite on the batches given")
    return total


def _equal(used: Array, weight: Array) -> bool:
    return bool(jnp.array_equal(used, weight.astype(used.dtype), equal_nan=True))


def _squares(rows: Array) -> Array:
    return jnp.sum(rows**2, axis=1)


def _grouped(solve: Solve) -> Solve:
    """Solves for each group of a kernel's outputs by its own moment."""

    def by_group(weight: Array, moments: Array) -> tuple[Array, Array]:
        split = _by_group(weight, len(moments))
        solved = [solve(w, m) for w, m in zip(split, moments, strict=True)]
        pruned, masks = (jnp.stack(part) for part in zip(*solved, strict=True))
        return _whole(pruned, weight.shape), _whole(masks, weight.shape)

    return by_group


def _by_group(weight: Array, groups: int) -> Array:
    """Turns (…, inputs, outputs) into (groups, rows, outputs of the group)."""
    return weight.reshape(-1, groups, weight.shape[-1] // groups).transpose(1, 0, 2)


def _whole(split: Array, shape: tuple[int, ...]) -> Array:
    return split.transpose(1, 0, 2).reshape(shape)


def _check_damping(pattern: str, damping: float) -> None:
    if not 0 < damping < float("inf"):
        raise ValueError(f"damping {damping!r} for pattern {pattern!r} is not a positive number")
