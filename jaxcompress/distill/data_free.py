"""Images from a teacher alone, for a student that may not see the data: losses of those who make them.

An image is made by descending these losses, of noise itself (DeepInversion) or of a generator (DAFL), and a student
then learns from it as from any other. Losses are computed in float32 where their arrays are of half precision. `where`,
booleans (batch,), is false for images that are left out.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxcompress.distill.checks import check_classes, check_logits, check_maps
from jaxcompress.distill.logits import divergence
from jaxcompress.distill.padding import Where, mean, unpadded, zeroed
from jaxcompress.distill.precision import in_float32
from jaxcompress.numerics.vectors import length

Logits = Float[Array, "batch classes"]
Images = Float[Array, "batch height width channels"]
Statistics = Mapping[str, tuple[Float[Array, "channels"], Float[Array, "channels"]]]


@in_float32
def statistics(inputs: Mapping[str, Float[Array, "batch *places channels"]], *, where: Where = None) -> Statistics:
    """Returns mean and variance over the batch of what each batch normalization is given, as `jaxcompress.taps` reads.

    To be compared with the running ones of the teacher by `normalization`.
    """
    return {name: _statistics(values, where) for name, values in inputs.items()}


@in_float32
def normalization(batch: Statistics, running: Statistics) -> Float[Array, ""]:
    """Returns how far a batch is from the statistics that a teacher was trained with, added over its layers.

    ``|mean - running mean| + |variance - running variance|``, Euclidean lengths (DeepInversion; Yin et al. 2020,
    arXiv:1912.08795, eq. 4). Raises ValueError if the two do not name the same layers.
    """
    if batch.keys() != running.keys():
        raise ValueError(f"statistics of {sorted(batch)} are compared with those of {sorted(running)}")
    differences = [ours - theirs for name in running for ours, theirs in zip(batch[name], running[name], strict=True)]
    return jnp.sum(jnp.stack([length(difference)[0] for difference in differences]))


@in_float32
def total_variation(images: Images, *, where: Where = None) -> Float[Array, ""]:
    """Returns the length of the differences of neighbouring pixels (DeepInversion, arXiv:1912.08795, eq. 3).

    Those along both axes and both diagonals, as in the authors' code: four lengths, over the whole batch, added.
    Raises ValueError for images that are not (batch, height, width, channels).
    """
    check_maps(images)
    (images,) = unpadded(where, images)
    pairs = [
        (images[:, :, :-1], images[:, :, 1:]),
        (images[:, :-1], images[:, 1:]),
        (images[:, 1:, :-1], images[:, :-1, 1:]),
        (images[:, :-1, :-1], images[:, 1:, 1:]),
    ]
    return jnp.sum(jnp.stack([length((a - b).reshape(-1))[0] for a, b in pairs]))


@in_float32
def competition(student: Logits, teacher: Logits, *, where: Where = None) -> Float[Array, "batch"]:
    """Returns one minus the Jensen-Shannon divergence of outputs: images that the student still gets wrong cost less.

    Adaptive DeepInversion (arXiv:1912.08795, eq. 7-8), with natural logarithms. Gradients pass through both networks to
    the images. Raises ValueError for logits that are not (batch, classes) of one shape.
    """
    student, teacher = _pair(student, teacher, where)
    log_q, log_p = jax.nn.log_softmax(student), jax.nn.log_softmax(teacher)
    log_mean = jnp.logaddexp(log_p, log_q) - jnp.log(2.0)
    return zeroed(where, 1 - 0.5 * (divergence(log_p, log_mean) + divergence(log_q, log_mean)))


@in_float32
def one_hot(teacher: Logits, *, where: Where = None) -> Float[Array, "batch"]:
    """Returns the cross-entropy of a teacher's outputs with the class it holds for likeliest (DAFL, eq. 3).

    Chen et al. 2019, arXiv:1904.01186: images of the data are told apart by the teacher without doubt.
    """
    teacher = _logits(teacher, where)
    likeliest = jnp.argmax(teacher, axis=-1, keepdims=True)  # the slope of a maximum divides by how many equal it
    return zeroed(where, -jnp.take_along_axis(jax.nn.log_softmax(teacher), likeliest, axis=-1)[:, 0])


@in_float32
def activation(features: Float[Array, "batch *features"], *, where: Where = None) -> Float[Array, "batch"]:
    """Returns minus the mean magnitude of a teacher's features in front of its classifier (DAFL, eq. 4)."""
    (features,) = unpadded(where, features)
    return -mean(jnp.abs(features), where, tuple(range(1, features.ndim)))


@in_float32
def balance(teacher: Logits, *, where: Where = None) -> Float[Array, ""]:
    """Returns minus the entropy of a batch's mean output: all classes are to be drawn alike (DAFL, eq. 5)."""
    average = mean(jax.nn.softmax(_logits(teacher, where)), where, 0)
    return jnp.sum(jnp.where(average > 0, average * jnp.log(jnp.where(average > 0, average, 1)), 0))


@in_float32
def disagreement(student: Logits, teacher: Logits, *, where: Where = None) -> Float[Array, "batch"]:
    """Returns minus the divergence of a student from its teacher, by which a generator finds what is not yet learned.

    An adversarial generator (Micaelli & Storkey 2019, arXiv:1905.09768, eq. 1) descends it while the student descends
    `kd` at temperature 1. Gradients pass through both networks to the images. Raises ValueError as `competition` does.
    """
    student, teacher = _pair(student, teacher, where)
    return zeroed(where, -divergence(jax.nn.log_softmax(teacher), jax.nn.log_softmax(student)))


def _statistics(values: Float[Array, "batch *places channels"], where: Where) -> tuple[Array, Array]:
    (values,) = unpadded(where, values)
    places = tuple(range(values.ndim - 1))
    average = mean(values, where, places)
    return average, mean(jnp.square(values - jnp.broadcast_to(average, values.shape)), where, places)


def _pair(student: Logits, teacher: Logits, where: Where) -> tuple[Logits, Logits]:
    check_logits(student, teacher)
    return _logits(student, where), _logits(teacher, where)


def _logits(logits: Logits, where: Where) -> Logits:
    check_classes(logits)
    if logits.ndim != 2:
        raise ValueError(f"logits {logits.shape} are not (batch, classes)")
    (logits,) = unpadded(where, logits)
    return logits
