"""Distillation from the logits of a teacher, or of none.

Every loss is one number for each example, and its mean over the batch is the loss of the paper. Teachers are frozen: no
gradient reaches what they gave.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int

from jaxcompress.distill.checks import check_labels, check_positive, check_same_shape
from jaxcompress.numerics.vectors import length

Logits = Float[Array, "*batch classes"]
Losses = Float[Array, "*batch"]


def kd(student: Logits, teacher: Logits, temperature: Array | float = 4.0) -> Losses:
    """Returns the Kullback-Leibler divergence of softened outputs, per example (Hinton et al. 2015, arXiv:1503.02531).

    ``T**2 * sum(p * (log p - log q))`` with p the teacher's and q the student's softmax at temperature T > 0. The
    factor T**2 keeps the gradient's size when the temperature changes (section 2). The paper writes the cross-entropy,
    which differs by the teacher's entropy and has the same gradient; this form is 0 for equal logits. The teacher is
    frozen: no gradient reaches its logits.

    Raises ValueError for shapes that differ or a temperature that is known not to be positive.
    """
    check_same_shape(student, teacher, "logits")
    check_positive(temperature=temperature)
    log_p = jax.nn.log_softmax(lax.stop_gradient(teacher) / temperature)
    log_q = jax.nn.log_softmax(student / temperature)
    return temperature**2 * _divergence(log_p, log_q)


def standardized(logits: Logits) -> Logits:
    """Returns logits less their mean over the classes and divided by their standard deviation.

    For the logits of both, in front of another loss: a student then need not match the size of its teacher's (Sun et
    al. 2024, arXiv:2403.01427, algorithm 1). A departure from the authors' code, which divides the squares by one less
    than the classes: this divides them by the classes, as the paper does.
    """
    centred = logits - jnp.mean(logits, axis=-1, keepdims=True)
    return centred / (jnp.sqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True)) + 1e-7)


def dkd(
    student: Logits,
    teacher: Logits,
    labels: Int[Array, "*batch"],
    *,
    temperature: Array | float = 4.0,
    alpha: Array | float = 1.0,
    beta: Array | float = 8.0,
) -> Losses:
    """Returns the decoupled distillation loss (Zhao et al. 2022, arXiv:2203.08679, eq. 7), per example.

    `alpha` weighs the divergence of what is given to the class of the label against all others (TCKD), `beta` that
    among the other classes (NCKD), which `kd` weighs by how unsure the teacher is. Both are softened by a `temperature`
    above 0 and multiplied by its square, as in the authors' code.

    Raises ValueError as `kd` does, and for labels that are not one integer for each row.
    """
    check_same_shape(student, teacher, "logits")
    check_labels(student, labels)
    check_positive(temperature=temperature)
    log_p = jax.nn.log_softmax(lax.stop_gradient(teacher) / temperature)
    log_q = jax.nn.log_softmax(student / temperature)
    target = _divergence(_one_against_others(log_p, labels), _one_against_others(log_q, labels))
    others = _divergence(_among_others(log_p, labels), _among_others(log_q, labels))
    return temperature**2 * (alpha * target + beta * others)


def dist(
    student: Float[Array, "batch classes"],
    teacher: Float[Array, "batch classes"],
    *,
    temperature: Array | float = 1.0,
    inter: Array | float = 1.0,
    intra: Array | float = 1.0,
) -> Float[Array, "batch"]:
    """Returns one minus the correlations of softened outputs (DIST; Huang et al. 2022, arXiv:2205.10536, eq. 8-10).

    `inter` weighs Pearson's distance between the classes of one example, `intra` that between the examples of one
    class, whose mean over the classes every example gets. Both are multiplied by the square of the `temperature`, which
    is above 0, as in the authors' code. Raises ValueError as `kd` does.
    """
    check_same_shape(student, teacher, "logits")
    check_positive(temperature=temperature)
    p, q = jax.nn.softmax(lax.stop_gradient(teacher) / temperature), jax.nn.softmax(student / temperature)
    between_classes = 1 - _correlation(q, p)
    between_examples = jnp.mean(1 - _correlation(q.T, p.T))
    return temperature**2 * (inter * between_classes + intra * between_examples)


def nkd(
    student: Logits,
    teacher: Logits,
    labels: Int[Array, "*batch"],
    *,
    temperature: Array | float = 1.0,
    gamma: Array | float = 1.5,
) -> Losses:
    """Returns the normalized distillation loss (NKD; Yang et al. 2023, arXiv:2303.13005, eq. 6), per example.

    That is the cross-entropy of the class of the label, weighed by what the teacher gives it, plus `gamma` times that
    among the other classes, whose outputs are made to sum to one; the latter is softened by a `temperature` above 0 and
    multiplied by its square. The loss of the labels themselves is not in it. Raises ValueError as `dkd` does.
    """
    check_same_shape(student, teacher, "logits")
    check_labels(student, labels)
    check_positive(temperature=temperature)
    teacher = lax.stop_gradient(teacher)
    log_p, log_q = jax.nn.log_softmax(teacher), jax.nn.log_softmax(student)
    target = -jnp.exp(_of_label(log_p, labels)) * _of_label(log_q, labels)
    p = jnp.exp(_among_others(jax.nn.log_softmax(teacher / temperature), labels))
    log_others = _among_others(jax.nn.log_softmax(student / temperature), labels)
    others = -jnp.sum(jnp.where(p > 0, p * log_others, 0), axis=-1)
    return target + gamma * temperature**2 * others


def teacher_free(
    student: Logits, labels: Int[Array, "*batch"], *, correct: float = 0.99, temperature: Array | float = 20.0
) -> Losses:
    """Returns the divergence from a teacher made by hand (Tf-KD_reg; Yuan et al. 2020, arXiv:1909.11723, eq. 9-10).

    That teacher gives `correct` of its output, above 1 / classes and below 1, to the class of the label and the rest to
    the others alike, softened as ``softmax(output / temperature)``. As in the authors' code the student is not
    softened and nothing is multiplied by the square of the temperature; as in the paper, and not in the code, the
    divergence is a sum over the classes, not their mean.

    Raises ValueError for labels that are not one integer a row, a temperature that is not positive, and `correct` out
    of its range.
    """
    check_labels(student, labels)
    check_positive(temperature=temperature)
    classes = student.shape[-1]
    if not 1 / classes < correct < 1:
        raise ValueError(f"correct {correct!r} is not above 1/{classes} and below 1")
    other = (1 - correct) / (classes - 1)
    output = other + (correct - other) * jax.nn.one_hot(labels, classes, dtype=student.dtype)
    return _divergence(jax.nn.log_softmax(output / temperature), jax.nn.log_softmax(student))


def _divergence(log_p: Logits, log_q: Logits) -> Losses:
    """Returns ``KL(p || q)``; what has no p adds nothing."""
    there = jnp.isfinite(log_p)
    differences = jnp.where(there, log_p, 0) - jnp.where(there, log_q, 0)
    return jnp.sum(jnp.exp(log_p) * differences, axis=-1)


def _correlation(a: Float[Array, "rows columns"], b: Float[Array, "rows columns"]) -> Float[Array, "rows"]:
    """Returns Pearson's correlation of the rows."""
    a, b = (x - jnp.mean(x, axis=-1, keepdims=True) for x in (a, b))
    lengths = (length(a) * length(b))[..., 0]
    return jnp.sum(a * b, axis=-1) / (lengths + 1e-8)


def _of_label(log_p: Logits, labels: Int[Array, "*batch"]) -> Losses:
    return jnp.take_along_axis(log_p, labels[..., None], axis=-1)[..., 0]


def _among_others(log_p: Logits, labels: Int[Array, "*batch"]) -> Logits:
    """Returns log outputs that sum to one over all classes but the label's, which has minus infinity."""
    own = jax.nn.one_hot(labels, log_p.shape[-1], dtype=bool)
    return jax.nn.log_softmax(jnp.where(own, -jnp.inf, log_p))


def _one_against_others(log_p: Logits, labels: Int[Array, "*batch"]) -> Float[Array, "*batch 2"]:
    """Returns the log outputs of the label's class and of all others together."""
    own = jax.nn.one_hot(labels, log_p.shape[-1], dtype=bool)
    others = jax.nn.logsumexp(jnp.where(own, -jnp.inf, log_p), axis=-1)
    return jnp.stack([_of_label(log_p, labels), others], axis=-1)
