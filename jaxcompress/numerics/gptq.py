"""GPTQ: rounds a weight row by row, each row making up for the errors of those before it.

Frantar et al. 2022 (arXiv:2210.17323), after the optimal brain surgeon (Hassibi & Stork 1993).
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.core import Tracer
from jaxtyping import Bool, Float, Int8

from jaxcompress.numerics import affine
from jaxcompress.numerics.second_moment import inverse_factor

Order = Literal["natural", "activation"]
_BLOCK = 128  # inputs whose updates of the later ones are put off and done in one product (section 3.3, step 2)


def gptq(
    weight: Float[Array, "inputs outputs"],
    moment: Float[Array, "inputs inputs"],
    scale: Float[Array, "..."],
    zero_point: Array,
    bits: Array | int,
    symmetric: bool,
    damping: float = 0.01,
    order: Order = "natural",
) -> Int8[Array, "inputs outputs"]:
    """Returns codes of `weight` that keep the layer's outputs, rather than each weight, near the original.

    Minimises ``sum over x of |x @ weight - x @ dequantized|**2`` greedily (algorithm 1 of Frantar et al. 2022,
    arXiv:2210.17323), given only ``moment = sum of outer(x, x)`` over the calibration inputs, at any common factor.
    `scale` and `zero_point` are those of `affine`, of shape () or (outputs,) or (groups, outputs), where an entry
    equal to 1 broadcasts and group g scales the g-th run of ``inputs / groups`` inputs. The kernel of a convolution
    goes in as (height * width * channels, outputs) with the moment of its patches, a grouped one under `jax.vmap`.

    `damping` times the mean square of the inputs is added to the diagonal, as in section 3.3, step 3; in float32 it
    also bounds the condition of the moment. `order` is that of rounding: ``natural``, as in the paper, or
    ``activation``, inputs of the largest mean square first, which the authors' release offers (there `act_order`).
    Groups keep their inputs in either order. Nothing holds a weight of zero in place: it takes up errors as any other.

    Departures: the Cholesky factor of the inverse is the inverse of a factor of the moment itself, so no inverse is
    ever formed and only the root of its condition is lost; the scales are given and not taken from the weights as
    updated so far; an input that was always zero (a zero on the diagonal) is rounded to nearest.

    Raises ValueError for shapes that do not match, `bits` outside 2..8, a damping that is not positive, an unknown
    order, weights, moments or scales that are not finite, scales that are not positive, and a moment that is not
    positive semi-definite. Values can only be looked at outside of jit and vmap.
    """
    _check_shapes(weight, moment, scale, zero_point)
    if order not in ("natural", "activation"):
        raise ValueError(f"order {order!r} is not 'natural' or 'activation'")
    _check_values(weight, moment, scale, bits, damping)
    scale, zero_point = _by_row(scale, weight.shape), _by_row(zero_point, weight.shape)
    codes, factored = _gptq(weight, moment, scale, zero_point, bits, symmetric, damping, order)
    if _refuted(factored):
        raise ValueError(f"moment of shape {moment.shape} is not positive semi-definite; it must be a sum of x x^T")
    return codes


@partial(jax.jit, static_argnames=("symmetric", "order"))
def _gptq(
    weight: Array,
    moment: Array,
    scale: Array,
    zero_point: Array,
    bits: Array | int,
    symmetric: bool,
    damping: Array | float,
    order: Order,
) -> tuple[Array, Bool[Array, ""]]:
    weight, moment = weight.astype(jnp.float32), moment.astype(jnp.float32)
    if order == "natural":
        upper = inverse_factor(moment, damping)
        return _round_rows(weight, upper, scale, zero_point, bits, symmetric), jnp.all(jnp.isfinite(upper))
    first = jnp.argsort(-jnp.diag(moment), stable=True)
    upper = inverse_factor(moment[first][:, first], damping)
    codes = _round_rows(weight[first], upper, scale[first], zero_point[first], bits, symmetric)
    return codes[jnp.argsort(first)], jnp.all(jnp.isfinite(upper))


def _round_rows(
    weight: Array, upper: Array, scale: Array, zero_point: Array, bits: Array | int, symmetric: bool
) -> Array:
    # Rounds rows in order. The error of a row, divided by its diagonal of U, is taken off the later rows in the
    # proportions of its row of U: within a block at once, beyond it when the turn of the later block comes.
    inputs, outputs = weight.shape
    block = min(_BLOCK, inputs)
    blocks = -(-inputs // block)
    extra = (0, blocks * block - inputs)  # rows that fill the last block up: they come after all others
    upper = jnp.pad(upper, (extra, extra)) + jnp.diag(jnp.pad(jnp.zeros(inputs), extra, constant_values=1.0))
    weight, zero_point = jnp.pad(weight, (extra, (0, 0))), jnp.pad(zero_point, (extra, (0, 0)))
    scale = jnp.pad(scale, (extra, (0, 0)), constant_values=1.0)

    def round_block(errors: Array, start: Array) -> tuple[Array, Array]:
        def rows_of(x: Array) -> Array:
            return lax.dynamic_slice_in_dim(x, start, block)

        columns = lax.dynamic_slice_in_dim(upper, start, block, axis=1)
        rows = rows_of(weight) - jnp.matmul(columns.T, errors, precision=lax.Precision.HIGHEST)

        def round_row(rows: Array, row: tuple[Array, ...]) -> tuple[Array, tuple[Array, Array]]:
            i, reach, row_scale, row_zero = row
            codes = affine.quantize(rows[i], row_scale, row_zero, bits, symmetric)
            error = (rows[i] - affine.dequantize(codes, row_scale, row_zero)) / reach[i]
            return rows - reach[:, None] * error[None, :], (codes, error)

        each = (jnp.arange(block), rows_of(columns), rows_of(scale), rows_of(zero_point))
        _, (codes, latest) = lax.scan(round_row, rows, each)
        return lax.dynamic_update_slice_in_dim(errors, latest, start, 0), codes

    _, codes = lax.scan(round_block, jnp.zeros_like(weight), jnp.arange(blocks) * block)
    return codes.reshape(-1, outputs)[:inputs]


def _by_row(parameter: Array, shape: tuple[int, ...]) -> Array:
    grouped = parameter.reshape((1,) * (2 - parameter.ndim) + parameter.shape).astype(jnp.float32)
    return jnp.broadcast_to(jnp.repeat(grouped, shape[0] // grouped.shape[0], axis=0), shape)


def _check_shapes(weight: Array, moment: Array, scale: Array, zero_point: Array) -> None:
    if weight.ndim != 2 or 0 in weight.shape or not jnp.issubdtype(weight.dtype, jnp.floating):
        raise ValueError(
            f"weight of shape {weight.shape} and dtype {weight.dtype} is not a floating-point (inputs, outputs)"
        )
    inputs, outputs = weight.shape
    if moment.shape != (inputs, inputs):
        raise ValueError(f"moment of shape {moment.shape} is not {(inputs, inputs)}, inputs by inputs of the weight")
    for name, parameter in (("scale", scale), ("zero_point", zero_point)):
        groups, columns = ((1, 1) + parameter.shape)[-2:]
        if parameter.ndim > 2 or columns not in (1, outputs) or groups == 0 or inputs % groups:
            raise ValueError(
                f"{name} of shape {parameter.shape} is not (), (1 or {outputs},) or (groups, 1 or {outputs}) with "
                f"groups that divide {inputs}"
            )


def _check_values(weight: Array, moment: Array, scale: Array, bits: Array | int, damping: Array | float) -> None:
    if not isinstance(bits, Tracer) and not (int(bits) == float(bits) and 2 <= int(bits) <= 8):
        raise ValueError(f"bits {bits!r} is not an integer from 2 to 8")
    if not isinstance(damping, Tracer) and not 0 < float(damping) < float("inf"):
        raise ValueError(f"damping {damping!r} is not a positive number")
    for name, value in (("weight", weight), ("moment", moment), ("scale", scale)):
        if _refuted(jnp.all(jnp.isfinite(value))):
            raise ValueError(f"{name} of shape {value.shape} holds NaN or infinity; all its entries must be finite")
    if _refuted(jnp.all(scale > 0)):
        raise ValueError(f"scale of shape {scale.shape} holds {jnp.min(scale)}; all its entries must be positive")


def _refuted(condition: Array) -> bool:
    return not isinstance(condition, Tracer) and not condition
