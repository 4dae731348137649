"""Masked weights whose gradient is not that of the mask."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float


@jax.custom_vjp
def straight_through(
    weight: Float[Array, "..."], mask: Bool[Array, "..."], decay: Float[Array, ""]
) -> Float[Array, "..."]:
    """Returns `weight` where `mask` is true and zero elsewhere; the gradient passes to all weights.

    To that of a removed weight ``decay * weight`` is added, once for every backward pass (SR-STE; Zhou et al. 2021,
    arXiv:2102.04010). It does not scale with the loss.
    """
    return jnp.where(mask, weight, jnp.zeros_like(weight))


def _forward(weight: Array, mask: Array, decay: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    return straight_through(weight, mask, decay), (weight, mask, decay)


def _backward(saved: tuple[Array, Array, Array], gradient: Array) -> tuple[Array, None, None]:
    weight, mask, decay = saved
    pull = decay.astype(weight.dtype) * weight
    return gradient + jnp.where(mask, jnp.zeros_like(weight), pull), None, None


straight_through.defvjp(_forward, _backward)


@jax.custom_vjp
def by_movement(
    weight: Float[Array, "..."], scores: Float[Array, "..."], mask: Bool[Array, "..."]
) -> Float[Array, "..."]:
    """Returns `weight` where `mask` is true and zero elsewhere; `scores` get a gradient as if they were the mask.

    That is the gradient times the weight, of removed ones too; weights get one where the mask is true (movement
    pruning; Sanh et al. 2020, arXiv:2005.07683).
    """
    return jnp.where(mask, weight, jnp.zeros_like(weight))


def _forward_by_movement(weight: Array, scores: Array, mask: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    return by_movement(weight, scores, mask), (weight, scores, mask)


def _backward_by_movement(saved: tuple[Array, Array, Array], gradient: Array) -> tuple[Array, Array, None]:
    weight, scores, mask = saved
    moved = (gradient.astype(jnp.float32) * weight.astype(jnp.float32)).astype(scores.dtype)
    return jnp.where(mask, gradient, jnp.zeros_like(gradient)), moved, None


by_movement.defvjp(_forward_by_movement, _backward_by_movement)
