"""Images from a teacher alone, for a student that may not see the data: losses of those who make them.

An image is made by descending these losses, of noise itself (DeepInversion) or of a generator (DAFL), and a student
then learns from it as from any other.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxcompress.numerics.vectors import length

Logits = Float[Array, "batch classes"]
Images = Float[Array, "batch height width channels"]
Statistics = Mapping[str, tuple[Float[Array, "channels"], Float[Array, "channels"]]]


def statistics(inputs: Mapping[str, Float[Array, "batch *places channels"]]) -> Statistics:
    """Returns mean and variance over the batch of what each batch normalization is given, as `jaxcompress.taps` reads.

    To be compared with the running ones of the teacher by `normalization`.
    """
    found = {}
    for name, values in inputs.items():
        places = tuple(range(values.ndim - 1))
        found[name] = (jnp.mean(values, axis=places), jnp.var(values, axis=places))
    return found


def normalization(batch: Statistics, running: Statistics) -> Float[Array, ""]:
    """Returns how far a batch is from the statistics that a teacher was trained with, added over its layers.

    ``|mean - running mean| + |variance - running variance|``, Euclidean lengths (DeepInversion; Yin et al. 2020,
    arXiv:1912.08795, eq. 4). Raises ValueError if the two do not name the same layers.
    """
    if batch.keys() != running.keys():
        raise ValueError(f"statistics of {sorted(batch)} are compared with those of {sorted(running)}")
    differences = [ours - theirs for name in running for ours, theirs in zip(batch[name], running[name], strict=True)]
    return jnp.sum(jnp.stack([length(difference)[0] for difference in differences]))


def total_variation(images: Images) -> Float[Array, ""]:
    """Returns the length of the differences of neighbouring pixels (DeepInversion, arXiv:1912.08795, eq. 3).

    Those along both axes and both diagonals, as in the authors' code: four lengths, over the whole batch, added.
    """
    pairs = [
        (images[:, :, :-1], images[:, :, 1:]),
        (images[:, :-1], images[:, 1:]),
        (images[:, 1:, :-1], images[:, :-1, 1:]),
        (images[:, :-1, :-1], images[:, 1:, 1:]),
    ]
    return jnp.sum(jnp.stack([length((a - b).reshape(-1))[0] for a, b in pairs]))


def competition(student: Logits, teacher: Logits) -> Float[Array, "batch"]:
    """Returns one minus the Jensen-Shannon divergence of outputs: images that the student still gets wrong cost less.

    Adaptive DeepInversion (arXiv:1912.08795, eq. 7-8), with natural logarithms. Gradients pass through both networks to
    the images.
    """
    log_q, log_p = jax.nn.log_softmax(student), jax.nn.log_softmax(teacher)
    log_mean = jnp.logaddexp(log_p, log_q) - jnp.log(2.0)

    def divergence(log_from: Logits) -> Float[Array, "batch"]:
        return jnp.sum(jnp.exp(log_from) * (log_from - log_mean), axis=-1)

    return 1 - 0.5 * (divergence(log_p) + divergence(log_q))


def one_hot(teacher: Logits) -> Float[Array, "batch"]:
    """Returns the cross-entropy of a teacher's outputs with the class it holds for likeliest (DAFL, eq. 3).

    Chen et al. 2019, arXiv:1904.01186: images of the data are told apart by the teacher without doubt.
    """
    likeliest = jnp.argmax(teacher, axis=-1, keepdims=True)  # the slope of a maximum divides by how many equal it
    return -jnp.take_along_axis(jax.nn.log_softmax(teacher), likeliest, axis=-1)[:, 0]


def activation(features: Float[Array, "batch *features"]) -> Float[Array, "batch"]:
    """Returns minus the mean magnitude of a teacher's features in front of its classifier (DAFL, eq. 4)."""
    return -jnp.mean(jnp.abs(features.reshape(len(features), -1)), axis=1)


def balance(teacher: Logits) -> Float[Array, ""]:
    """Returns minus the entropy of a batch's mean output: all classes are to be drawn alike (DAFL, eq. 5)."""
    mean = jnp.mean(jax.nn.softmax(teacher), axis=0)
    return jnp.sum(jnp.where(mean > 0, mean * jnp.log(jnp.where(mean > 0, mean, 1)), 0))


def disagreement(student: Logits, teacher: Logits) -> Float[Array, "batch"]:
    """Returns minus the divergence of a student from its teacher, by which a generator finds what is not yet learned.

    An adversarial generator (Micaelli & Storkey 2019, arXiv:1905.09768, eq. 1) descends it while the student descends
    `kd` at temperature 1. Gradients pass through both networks to the images.
    """
    log_p, log_q = jax.nn.log_softmax(teacher), jax.nn.log_softmax(student)
    return -jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
