"""Least-squares reconstruction: the layers that read removed channels make up for them with the others.

He, Zhang and Sun 2017 (arXiv:1707.06168), and ThiNet (Luo et al. 2017, arXiv:1707.06342).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend.core import primitives as prim
from jaxtyping import Float

from jaxcompress.arrays import Masked, densify
from jaxcompress.interpreters.axes import Axes, layer_of, matrices
from jaxcompress.interpreters.channels import Channels
from jaxcompress.interpreters.rows import rows
from jaxcompress.interpreters.uses import Use
from jaxcompress.numerics.least_squares import minimizer
from jaxcompress.paths import Params, flatten, replaced
from jaxcompress.prune.readers import plain_uses
from jaxcompress.prune.removal import mask


def reconstruct(
    apply: Callable[..., Any],
    params: Params,
    channels: Channels,
    kept: Mapping[str | int, Any],
    batches: Sequence[Any],
) -> Params:
    """Refits every kernel that reads removed channels, so that its layer gives what it gave before.

    A kernel becomes the W of least ``sum((Y - X W)**2)`` over `batches` of inputs: Y is the layer's output, without its
    bias, as ``apply(params, x)`` computes it, and X what is left of its input in the model without the channels whose
    earlier layers are refit already. Of several such W the smallest is taken. Returns `params` as dense arrays with
    zeros for the removed channels and with the refit kernels, for `remove` to take.

    A kernel keeps its weights where the model does not take it as it stands (transposed, converted, in a loop), where
    it is one of a batch of matrices, and in a transposed convolution. Sums over examples are float32 within a batch and
    float64 over batches. Raises ValueError if there are no batches, for activations that are not finite, and as
    `remove` does.
    """
    if not len(batches):
        raise ValueError("there are no batches of inputs; at least one is needed")
    masks = {p: leaf for p, leaf in flatten(mask(params, channels, kept)).items() if isinstance(leaf, Masked)}
    params = densify(params)
    pruned = densify(mask(params, channels, kept))
    for path, layer in _layers(apply, params, batches[0]).items():
        if path not in masks:
            continue
        stays = matrices(layer.layers(np.asarray(masks[path].mask))[0], layer.groups).any(axis=2)
        if bool(np.all(stays)):
            continue
        measure = jax.jit(lambda params, pruned, x, path=path: _sums(apply, params, pruned, x, path))
        found = [measure(params, pruned, jnp.asarray(x)) for x in batches]
        moment, cross = (np.sum([np.asarray(of[i], np.float64) for of in found], axis=0) for i in (0, 1))
        if not np.all(np.isfinite(moment)) or not np.all(np.isfinite(cross)):
            raise ValueError(f"the inputs or outputs of {path} are not finite on the batches given")
        refit = np.zeros(np.shape(cross))
        for group, left in enumerate(stays):
            refit[group, left] = minimizer(moment[group][np.ix_(left, left)], cross[group, left])
        leaf = flatten(params)[path]
        kernel = jnp.asarray(layer.kernel(layer_of(refit, layer.layer_shape(leaf.shape)), leaf.shape), leaf.dtype)
        pruned = replaced(pruned, {path: Masked(kernel, masks[path].mask).dense()})
    return pruned


def _layers(apply: Callable[..., Any], params: Params, x: Any) -> dict[str, Axes]:
    """Lists the axes of the kernels that can be refit, in the order of the program."""
    found: dict[str, Axes] = {}

    def look(params: Params, x: Any) -> None:
        for path, uses in plain_uses(apply, params, x).items():
            layers = {use.axes if rows(use) is not None else None for use in uses}
            layer = layers.pop()
            if not layers and layer is not None and not layer.stack:
                found[path] = layer

    jax.eval_shape(look, params, x)
    return found


def _sums(
    apply: Callable[..., Any], params: Params, pruned: Params, x: Array, path: str
) -> tuple[Float[Array, "groups rows rows"], Float[Array, "groups rows outputs"]]:
    """Sums X'X and X'Y of a layer over a batch: X of the pruned model, Y of the other."""

    def product(a: Array, b: Array) -> Array:
        return jnp.einsum("gni,gnj->gij", a, b, precision=lax.Precision.HIGHEST)

    moment, cross = [], []
    before, after = (plain_uses(apply, tree, x)[path] for tree in (params, pruned))
    for wanted, given in zip(before, after, strict=True):
        taken = rows(given)
        assert taken is not None  # as `_layers` found
        taken = taken.astype(jnp.float32)
        moment.append(product(taken, taken))
        cross.append(product(taken, _outputs(wanted)))
    return sum(moment[1:], moment[0]), sum(cross[1:], cross[0])


def _outputs(use: Use) -> Float[Array, "groups n outputs"]:
    """Returns the results of these products."""
    out, numbers = use.output.astype(jnp.float32), use.params["dimension_numbers"]
    if use.primitive is prim.dot_general_p:
        (contracted, _), _ = numbers
        return out.reshape(1, math.prod(out.shape[: use.input.ndim - len(contracted)]), -1)
    batch, channel, *places = numbers.out_spec
    groups = use.params["feature_group_count"]
    split = jnp.transpose(out, (batch, *places, channel)).reshape(-1, groups, out.shape[channel] // groups)
    return split.transpose(1, 0, 2)
