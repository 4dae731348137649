"""Least-squares reconstruction: the layers that read removed channels make up for them with the others.

He, Zhang and Sun 2017 (arXiv:1707.06168), and ThiNet (Luo et al. 2017, arXiv:1707.06342).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend.core import primitives as prim
from jaxtyping import Float

from jaxcompress.arrays import Masked, densify
from jaxcompress.interpreters.channels import Channels
from jaxcompress.interpreters.patches import columns
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
        if path not in masks or bool(np.all(stays := layer.rows_that_stay(masks[path].mask))):
            continue
        measure = jax.jit(lambda params, pruned, x, path=path: _sums(apply, params, pruned, x, path))
        found = [measure(params, pruned, jnp.asarray(x)) for x in batches]
        moment, cross = (np.sum([np.asarray(of[i], np.float64) for of in found], axis=0) for i in (0, 1))
        if not np.all(np.isfinite(moment)) or not np.all(np.isfinite(cross)):
            raise ValueError(f"the inputs or outputs of {path} are not finite on the batches given")
        matrices = np.zeros(np.shape(cross))
        for group, rows in enumerate(stays):
            matrices[group, rows] = minimizer(moment[group][np.ix_(rows, rows)], cross[group, rows])
        kernel = jnp.asarray(layer.kernel(matrices), flatten(params)[path].dtype)
        pruned = replaced(pruned, {path: Masked(kernel, masks[path].mask).dense()})
    return pruned


class _Layer(NamedTuple):
    """Describes how a kernel multiplies its inputs: as a matrix of rows by outputs for each of its groups."""

    shape: tuple[int, ...]  # of the kernel
    inputs: tuple[int, ...]  # its axes along which rows stand
    outputs: tuple[int, ...]
    groups: int

    def matrices(self, kernel: Any) -> Any:
        """Returns a kernel as (groups, rows, outputs)."""
        rows, outputs = (math.prod(self.shape[axis] for axis in axes) for axes in (self.inputs, self.outputs))
        split = kernel.transpose(*self.inputs, *self.outputs).reshape(rows, self.groups, outputs // self.groups)
        return split.transpose(1, 0, 2)

    def kernel(self, matrices: np.ndarray) -> np.ndarray:
        """Returns the kernel of the matrices."""
        order = (*self.inputs, *self.outputs)
        moved = matrices.transpose(1, 0, 2).reshape([self.shape[axis] for axis in order])
        return moved.transpose(np.argsort(order))

    def rows_that_stay(self, mask: Any) -> np.ndarray:
        """Returns the rows of a mask in which any entry stays: bool (groups, rows)."""
        return self.matrices(np.asarray(mask)).any(axis=2)


def _layers(apply: Callable[..., Any], params: Params, x: Any) -> dict[str, _Layer]:
    """Lists the kernels that can be refit, in the order of the program."""
    found: dict[str, _Layer] = {}

    def look(params: Params, x: Any) -> None:
        for path, uses in plain_uses(apply, params, x).items():
            layers = {_layer(use) for use in uses}
            if len(layers) == 1 and (layer := layers.pop()) is not None:
                found[path] = layer

    jax.eval_shape(look, params, x)
    return found


def _layer(use: Use) -> _Layer | None:
    numbers, axes = use.params["dimension_numbers"], range(use.weight.ndim)
    if use.primitive is prim.dot_general_p:
        (_, contracted), batched = numbers
        inputs = tuple(sorted(contracted))
        outputs = tuple(axis for axis in axes if axis not in inputs)
        return None if any(batched) else _Layer(use.weight.shape, inputs, outputs, 1)
    if use.params["batch_group_count"] != 1 or {1, *use.params["lhs_dilation"]} != {1}:
        return None
    output, given, *window = numbers.rhs_spec
    return _Layer(use.weight.shape, (*window, given), (output,), use.params["feature_group_count"])


def _sums(
    apply: Callable[..., Any], params: Params, pruned: Params, x: Array, path: str
) -> tuple[Float[Array, "groups rows rows"], Float[Array, "groups rows outputs"]]:
    """Sums X'X and X'Y of a layer over a batch: X of the pruned model, Y of the other."""

    def product(a: Array, b: Array) -> Array:
        return jnp.einsum("gni,gnj->gij", a, b, precision=lax.Precision.HIGHEST)

    moment, cross = [], []
    before, after = (plain_uses(apply, tree, x)[path] for tree in (params, pruned))
    for wanted, given in zip(before, after, strict=True):
        rows = _rows(given)
        moment.append(product(rows, rows))
        cross.append(product(rows, _outputs(wanted)))
    return sum(moment[1:], moment[0]), sum(cross[1:], cross[0])


def _rows(use: Use) -> Float[Array, "groups n rows"]:
    """Returns what the rows of the kernel are multiplied with, a row for every product with all of it."""
    x, numbers = use.input.astype(jnp.float32), use.params["dimension_numbers"]
    if use.primitive is prim.dot_general_p:
        (left, right), _ = numbers
        inputs = [axis for _, axis in sorted(zip(right, left, strict=True))]
        rows = jnp.moveaxis(x, inputs, range(x.ndim - len(inputs), x.ndim))
        return rows.reshape(1, -1, math.prod(x.shape[axis] for axis in inputs))
    batch, channel, *places = numbers.lhs_spec
    window = [use.weight.shape[axis] for axis in numbers.rhs_spec[2:]]
    x = jnp.transpose(x, (batch, *places, channel))
    taken = columns(x, window, use.params["window_strides"], use.params["padding"], use.params["rhs_dilation"])
    groups, width = use.params["feature_group_count"], use.weight.shape[numbers.rhs_spec[1]]
    split = taken.reshape(-1, math.prod(window), groups, width).transpose(2, 0, 1, 3)
    return split.reshape(groups, split.shape[1], -1)


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
