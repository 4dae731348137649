"""Convolutions by a factorized kernel, as the convolutions of its factors."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import primitives as prim

from jaxcompress.arrays import Factored, Reshaped, dense, is_compressed
from jaxcompress.arrays.factored import Stage
from jaxcompress.interpreters.base import Reading, bind


def convolution(reading: Reading, values: Sequence[Any], params: dict[str, Any]) -> Any:
    """Runs a convolution by a factorized kernel as the convolutions of its factors."""
    x, kernel = values
    if not isinstance(kernel, Factored) or is_compressed(x) or params["batch_group_count"] != 1 or kernel.stack_axes:
        return NotImplemented
    spatial, numbers = len(params["window_strides"]), params["dimension_numbers"]
    if kernel.ndim != spatial + 2:
        return NotImplemented
    output, given, *window = numbers.rhs_spec
    kernel, stages = _standing(kernel, (*window, given, output))
    params = {**params, "dimension_numbers": numbers._replace(rhs_spec=(spatial + 1, spatial, *range(spatial)))}
    if stages is not None:
        turned = isinstance(kernel, Reshaped)  # then the first stage, not the last, is that of the outputs
        return NotImplemented if turned and params["feature_group_count"] > 1 else _staged(reading, x, stages, params)
    if isinstance(kernel, Reshaped):
        return NotImplemented
    if params["feature_group_count"] != 1:
        raise ValueError(
            f"a {type(kernel).__name__} of shape {kernel.shape} stands in a convolution of"
            f" {params['feature_group_count']} groups, for which it has no meaning (made by {kernel.owner!r})"
        )
    return _by_planes(reading, x, kernel, params)


def convolved(reading: Reading, x: Array, kernel: Factored, options: dict[str, Any]) -> Any:
    """Convolves x (batch, *places, inputs) by a kernel without padding, in steps of one place."""
    spatial = x.ndim - 2
    ones, last = (1,) * spatial, (0, spatial + 1, *range(1, spatial + 1))
    numbers = jax.lax.ConvDimensionNumbers(last, (spatial + 1, spatial, *range(spatial)), last)
    like = jax.make_jaxpr(lambda x, k: jax.lax.conv_general_dilated(x, k, ones, "VALID", dimension_numbers=numbers))(
        x, jax.ShapeDtypeStruct(kernel.shape, kernel.dtype)
    )
    return convolution(reading, (x, kernel), {**like.eqns[0].params, **options})


def _standing(kernel: Factored, order: tuple[int, ...]) -> tuple[Factored, Sequence[Stage] | None]:
    """Returns the kernel whose axes in `order` are (*window, inputs, outputs), and the convolutions that it runs as.

    A kernel whose inputs are its outputs the other way round runs as its convolutions do, the last of them first.
    """
    rising = tuple(range(kernel.ndim))
    turned = (*rising[:-2], rising[-1], rising[-2])
    weight, order = (
        (kernel.weight, tuple(kernel.axes[axis] for axis in order))
        if isinstance(kernel, Reshaped) and kernel.is_permutation
        else (kernel, order)
    )
    assert isinstance(weight, Factored)
    if order == rising:
        return weight, weight.stages()
    stages = weight.stages() if order == turned else None
    if stages is None:
        return Reshaped(weight, weight.shape, order), None
    swapped = [
        stage if stage.depthwise else stage._replace(kernel=jnp.swapaxes(dense(stage.kernel), -1, -2))
        for stage in reversed(stages)
    ]
    return Reshaped(weight, weight.shape, order), swapped


def _staged(reading: Reading, x: Any, stages: Sequence[Stage], params: dict[str, Any]) -> Any:
    """Runs one convolution after the other; of a grouped one all but the last have the same kernel in every group."""
    spatial, groups = len(params["window_strides"]), params["feature_group_count"]
    for stage in stages:
        here = [axis in stage.axes for axis in range(spatial)]
        kernel = stage.kernel
        if groups > 1 and stage is not stages[-1]:
            kernel = jnp.tile(dense(kernel), groups)
        own = {
            "window_strides": tuple(n if held else 1 for n, held in zip(params["window_strides"], here, strict=True)),
            "padding": tuple(n if held else (0, 0) for n, held in zip(params["padding"], here, strict=True)),
            "lhs_dilation": tuple(n if held else 1 for n, held in zip(params["lhs_dilation"], here, strict=True)),
            "rhs_dilation": tuple(n if held else 1 for n, held in zip(params["rhs_dilation"], here, strict=True)),
            "feature_group_count": groups * stage.kernel.shape[-1] if stage.depthwise else groups,
        }
        x = bind(reading, prim.conv_general_dilated_p, x, kernel, **{**params, **own})
    return x


def _by_planes(reading: Reading, x: Any, kernel: Factored, params: dict[str, Any]) -> Any:
    """Runs a convolution in the way that the kernel has of its own, channels last."""
    spatial, numbers = len(params["window_strides"]), params["dimension_numbers"]
    last = (0, spatial + 1, *range(1, spatial + 1))
    options = {**params, "dimension_numbers": numbers._replace(lhs_spec=last, out_spec=last)}

    def convolution(x: Array, kernel: Array) -> Array:
        return bind(reading, prim.conv_general_dilated_p, x, kernel, **options)

    def product(a: Any, b: Any, a_axes: Sequence[int], b_axes: Sequence[int]) -> Any:
        own = {"precision": params["precision"], "preferred_element_type": params["preferred_element_type"]}
        return jax.lax.dot_general(dense(a), dense(b), ((tuple(a_axes), tuple(b_axes)), ((), ())), **own)

    batch, channel, *places = numbers.lhs_spec
    out = kernel.convolve(jax.lax.transpose(x, (batch, *places, channel)), convolution, product)
    if out is None:
        return NotImplemented
    batch, channel, *places = numbers.out_spec
    order = [0] * out.ndim
    for axis, place in enumerate((batch, *places, channel)):
        order[place] = axis
    return jax.lax.transpose(out, order)
