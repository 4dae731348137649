"""Distillation of how the examples of a batch lie to each other.

Embeddings are flattened to one vector an example. Every loss is one number for each example, its relations to all
others, and the mean over the batch is the loss of the paper. Students and teachers may differ in all but the batch,
since relations are all that is compared. Teachers are frozen. Losses are computed in float32 where embeddings are of
half precision. `where`, booleans (batch,), is false for examples that are padding: they have no loss, and the others no
relation to them. Where embeddings are equal or zero, directions and distances have gradient 0.
"""

import math

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from jaxcompress.distill.checks import check_positive, check_same_batch
from jaxcompress.distill.padding import Where, mean, unpadded, zeroed
from jaxcompress.distill.precision import in_float32
from jaxcompress.numerics.vectors import length, unit

Embeddings = Float[Array, "batch *features"]
Losses = Float[Array, "batch"]


@in_float32
def rkd_distance(student: Embeddings, teacher: Embeddings, *, where: Where = None) -> Losses:
    """Returns Huber's loss of the distances in a batch (RKD-D; Park et al. 2019, arXiv:1904.05068, eq. 4-6).

    Each network's distances are divided by the mean of those that are not zero. Raises ValueError for embeddings of
    another batch, as the others of this module do.
    """
    ours, theirs = _vectors(student, teacher, where)
    return _of_others(_huber(_distances(ours, where) - _distances(theirs, where)), where)


@in_float32
def rkd_angle(student: Embeddings, teacher: Embeddings, *, where: Where = None) -> Losses:
    """Returns Huber's loss of the angles in a batch (RKD-A; Park et al. 2019, arXiv:1904.05068, eq. 7-8).

    At every example stand the cosines of the angles between the directions to all pairs of others, so memory grows with
    the cube of the batch.
    """
    ours, theirs = _vectors(student, teacher, where)
    return _of_others(_of_others(_huber(_angles(ours) - _angles(theirs)), where), where)


@in_float32
def similarity(student: Embeddings, teacher: Embeddings, *, where: Where = None) -> Losses:
    """Returns the squared difference of similarities (SP; Tung & Mori 2019, arXiv:1907.09682, eq. 1-4).

    Similarities are the products of an example's embedding with all others', divided by the length of that row.
    """
    ours, theirs = (unit(x @ x.T) for x in _vectors(student, teacher, where))
    return _of_others(jnp.square(ours - theirs), where)


@in_float32
def correlation_congruence(
    student: Embeddings, teacher: Embeddings, *, gamma: float = 0.4, order: int = 2, where: Where = None
) -> Losses:
    """Returns the squared difference of correlations (CC; Peng et al. 2019, arXiv:1904.01802, eq. 3-7).

    A correlation is the Gaussian kernel ``exp(-gamma |x - y|**2)`` of two embeddings of length one, expanded about zero
    up to an `order`: ``sum over p of exp(-2 gamma) (2 gamma)**p / p! * (x . y)**p``. Raises ValueError for a gamma that
    is not positive and an order below 1.
    """
    check_positive(gamma=gamma, order=order)

    def kernel(x: Float[Array, "batch features"]) -> Float[Array, "batch batch"]:
        products = 2 * gamma * unit(x) @ unit(x).T
        powers = jnp.stack([products**p / math.factorial(p) for p in range(order + 1)])
        return math.exp(-2 * gamma) * jnp.sum(powers, axis=0)

    ours, theirs = map(kernel, _vectors(student, teacher, where))
    return _of_others(jnp.square(ours - theirs), where)


@in_float32
def pkt(student: Embeddings, teacher: Embeddings, *, where: Where = None) -> Losses:
    """Returns the divergence of who is near whom (PKT; Passalis & Tefas 2018, arXiv:1803.10837, eq. 5-8).

    Cosines, brought to [0, 1], are divided by their sum over the batch; an example counts as its own neighbour, and as
    in the authors' code the terms of the divergence are averaged over a row, not added.
    """
    ours, theirs = (_neighbours(x, where) for x in _vectors(student, teacher, where))
    return _of_others(theirs * (jnp.log(theirs + _SMALLEST) - jnp.log(ours + _SMALLEST)), where)


_SMALLEST = 1e-7  # added to what a logarithm is taken of


def _vectors(student: Embeddings, teacher: Embeddings, where: Where) -> tuple[Array, Array]:
    check_same_batch(student, teacher, "embeddings")
    student, teacher = unpadded(where, student, lax.stop_gradient(teacher))
    return student.reshape(len(student), -1), teacher.reshape(len(teacher), -1)


def _of_others(values: Float[Array, "batch *more batch"], where: Where) -> Float[Array, "batch *more"]:
    """Returns the mean over the last axis, of the examples that count, in the rows that do."""
    return zeroed(where, mean(jnp.moveaxis(values, -1, 0), where, 0))


def _huber(difference: Array) -> Array:
    """Returns half of the square up to 1, and goes on as a line."""
    size = jnp.abs(difference)
    return jnp.where(size < 1, 0.5 * jnp.square(difference), size - 0.5)


def _distances(x: Float[Array, "batch features"], where: Where) -> Float[Array, "batch batch"]:
    lengths = length(x[:, None] - x[None])[..., 0]
    if where is not None:
        lengths = jnp.where(where[:, None] & where[None], lengths, 0)
    count = jnp.maximum(jnp.sum(lengths > 0), 1).astype(lengths.dtype)
    average = jnp.sum(lengths) / count
    return lengths / jnp.where(average > 0, average, 1)


def _angles(x: Float[Array, "batch features"]) -> Float[Array, "batch batch batch"]:
    directions = unit(x[None] - x[:, None])  # from the first example to the second
    return jnp.einsum("ijf,ikf->ijk", directions, directions)


def _neighbours(x: Float[Array, "batch features"], where: Where) -> Float[Array, "batch batch"]:
    x = unit(x)
    near = jnp.maximum((x @ x.T + 1) / 2, 0)  # a rounded cosine may lie below minus one
    near = near if where is None else jnp.where(where[None], near, 0)
    total = jnp.sum(near, axis=1, keepdims=True)
    return near / jnp.where(total > 0, total, 1)
