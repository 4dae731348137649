"""Allocation: how much of each layer goes so that a given fraction goes of all."""

import math
from typing import Literal

import jax.numpy as jnp
from jax import Array, lax

Allocation = Literal["uniform", "global", "erk", "lamp"]


def erk(shapes: list[tuple[int, ...]], sparsity: Array | float) -> list[Array]:
    """Returns the sparsity of each layer, by the Erdős–Rényi–kernel rule, float32.

    The density of a layer is in proportion to ``sum(shape) / prod(shape)`` (Evci et al. 2020, arXiv:1911.11134, after
    Mocanu et al. 2018), by a factor that makes the density of all weights ``1 - sparsity``. Layers that would be more
    than dense are dense, and the factor is found anew over the others: first those of the highest proportion, as in
    the authors' release, until none is left. `sparsity` is in [0, 1] and may be traced.
    """
    sizes = jnp.asarray([math.prod(shape) for shape in shapes], jnp.float32)
    proportions = jnp.asarray([sum(shape) / math.prod(shape) for shape in shapes], jnp.float32)
    dense = jnp.zeros(len(shapes), bool)
    kept = (1 - jnp.asarray(sparsity, jnp.float32)) * jnp.sum(sizes)

    def densities(dense: Array) -> Array:
        spread = jnp.sum(jnp.where(dense, 0.0, proportions * sizes))
        left = jnp.maximum(kept - jnp.sum(jnp.where(dense, sizes, 0.0)), 0.0)
        return jnp.where(dense, 1.0, proportions * left / jnp.where(spread > 0, spread, 1.0))

    for _ in shapes:  # each round makes one more proportion dense, or changes nothing
        open_proportions = jnp.where(dense, 0.0, proportions)
        highest = ~dense & (proportions == jnp.max(open_proportions))
        dense = dense | (highest & (densities(dense) > 1))
    return [1 - density for density in jnp.minimum(densities(dense), 1.0)]


def lamp(scores: Array) -> Array:
    """Rescales the non-negative scores of a layer so that layers may be ranked together (Lee et al. 2021).

    Each square is divided by the sum of the squares that are not smaller, itself included (arXiv:2010.07611); the
    largest becomes 1, so that no layer vanishes. The order within the layer stays, and of equals the earlier comes out
    higher. All zeros stay zeros.
    """
    flat = scores.reshape(-1).astype(jnp.float32)
    _, exponent = jnp.frexp(jnp.max(flat, initial=0.0))
    squares = jnp.ldexp(flat, -exponent) ** 2  # a quotient would turn into a product, whose factor may underflow
    order = jnp.argsort(-squares, stable=True)
    falling = squares[order]
    sums = jnp.cumsum(falling)
    shares = falling / jnp.where(sums > 0, sums, 1.0)
    # Sums in parallel may fall by a rounding error, which must not change the order.
    shares = lax.cummin(shares)
    return jnp.zeros_like(flat).at[order].set(shares, unique_indices=True).reshape(scores.shape)
