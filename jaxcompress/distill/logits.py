"""Distillation from the logits of a teacher, or of none.

Every loss is one number for each example, and its mean over the batch is the loss of the paper. Teachers are frozen: no
gradient reaches what they gave. Losses are computed in float32 where logits are of half precision. A row that `where`,
booleans of the shape of the batch, says is padding has loss 0 and gradient 0 whatever it holds, and so has one with the
label -100; labels that are none of the classes raise ValueError where they are known, and give NaN in a traced call.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int

from jaxcompress.distill.checks import check_classes, check_known, check_labels, check_logits, check_positive
from jaxcompress.distill.padding import Where, of_labels, unpadded, zeroed
from jaxcompress.distill.precision import in_float32
from jaxcompress.numerics.vectors import deviations, length, unit

Logits = Float[Array, "*batch classes"]
Losses = Float[Array, "*batch"]


@in_float32
def kd(student: Logits, teacher: Logits, temperature: Array | float = 4.0, *, where: Where = None) -> Losses:
    """Returns the Kullback-Leibler divergence of softened outputs, per example (Hinton et al. 2015, arXiv:1503.02531).

    ``T**2 * sum(p * (log p - log q))`` with p the teacher's and q the student's softmax at temperature T > 0. The
    factor T**2 keeps the gradient's size when the temperature changes (section 2). The paper writes the cross-entropy,
    which differs by the teacher's entropy and has the same gradient; this form is 0 for equal logits. The teacher is
    frozen: no gradient reaches its logits.

    Raises ValueError for shapes that differ, no classes, or a temperature that is known not to be positive.
    """
    check_logits(student, teacher)
    check_positive(temperature=temperature)
    student, teacher = unpadded(where, student, teacher, places=student.ndim - 1)
    log_p = jax.nn.log_softmax(lax.stop_gradient(teacher) / temperature)
    log_q = jax.nn.log_softmax(student / temperature)
    return zeroed(where, temperature**2 * divergence(log_p, log_q))


@in_float32
def standardized(logits: Logits, *, where: Where = None) -> Logits:
    """Returns logits less their mean over the classes and divided by their standard deviation.

    For the logits of both, in front of another loss: a student then need not match the size of its teacher's (Sun et
    al. 2024, arXiv:2403.01427, algorithm 1). A departure from the authors' code, which divides the squares by one less
    than the classes: this divides them by the classes, as the paper does. Logits that are all equal, as a classifier of
    zeros gives them, become zeros and have gradient 0, where a division by 1e-7 would give some of 1e7. Raises
    ValueError without classes.
    """
    check_classes(logits)
    (logits,) = unpadded(where, logits, places=logits.ndim - 1)
    centred = deviations(logits)
    return centred / (length(centred) / logits.shape[-1] ** 0.5 + 1e-7)


@in_float32
def dkd(
    student: Logits,
    teacher: Logits,
    labels: Int[Array, "*batch"],
    *,
    temperature: Array | float = 4.0,
    alpha: Array | float = 1.0,
    beta: Array | float = 8.0,
    where: Where = None,
) -> Losses:
    """Returns the decoupled distillation loss (Zhao et al. 2022, arXiv:2203.08679, eq. 7), per example.

    `alpha` weighs the divergence of what is given to the class of the label against all others (TCKD), `beta` that
    among the other classes (NCKD), which `kd` weighs by how unsure the teacher is. Both are softened by a `temperature`
    above 0 and multiplied by its square, as in the authors' code.

    Raises ValueError as `kd` does, for a single class, and for labels that are not one integer for each row.
    """
    check_logits(student, teacher, classes=2)
    check_positive(temperature=temperature)
    where, labels = _labels(where, student, labels)
    student, teacher = unpadded(where, student, teacher, places=student.ndim - 1)
    log_p = jax.nn.log_softmax(lax.stop_gradient(teacher) / temperature)
    log_q = jax.nn.log_softmax(student / temperature)
    target = divergence(_one_against_others(log_p, labels), _one_against_others(log_q, labels))
    others = divergence(_among_others(log_p, labels), _among_others(log_q, labels))
    return zeroed(where, temperature**2 * (alpha * target + beta * others))


@in_float32
def dist(
    student: Float[Array, "batch classes"],
    teacher: Float[Array, "batch classes"],
    *,
    temperature: Array | float = 1.0,
    inter: Array | float = 1.0,
    intra: Array | float = 1.0,
    where: Where = None,
) -> Float[Array, "batch"]:
    """Returns one minus the correlations of softened outputs (DIST; Huang et al. 2022, arXiv:2205.10536, eq. 8-10).

    `inter` weighs Pearson's distance between the classes of one example, `intra` that between the examples of one
    class, whose mean over the classes every example gets. Both are multiplied by the square of the `temperature`, which
    is above 0, as in the authors' code. A departure from that code: lengths get nothing added before they divide, and
    outputs that are all equal have correlation 0 and gradient 0. Raises ValueError as `kd` does, for a single class,
    and for logits that are not (batch, classes), among which there is no one axis of examples.
    """
    check_logits(student, teacher, classes=2)
    if student.ndim != 2:
        raise ValueError(f"logits {student.shape} are not (batch, classes); reshape them to (examples, classes)")
    check_positive(temperature=temperature)
    student, teacher = unpadded(where, student, teacher)
    p, q = jax.nn.softmax(lax.stop_gradient(teacher) / temperature), jax.nn.softmax(student / temperature)
    between_classes = 1 - _correlation(q, p)
    between_examples = jnp.mean(1 - _correlation(q.T, p.T, where))
    return zeroed(where, temperature**2 * (inter * between_classes + intra * between_examples))


@in_float32
def nkd(
    student: Logits,
    teacher: Logits,
    labels: Int[Array, "*batch"],
    *,
    temperature: Array | float = 1.0,
    gamma: Array | float = 1.5,
    where: Where = None,
) -> Losses:
    """Returns the normalized distillation loss (NKD; Yang et al. 2023, arXiv:2303.13005, eq. 6), per example.

    That is the cross-entropy of the class of the label, weighed by what the teacher gives it, plus `gamma` times that
    among the other classes, whose outputs are made to sum to one; the latter is softened by a `temperature` above 0 and
    multiplied by its square. The loss of the labels themselves is not in it. Raises ValueError as `dkd` does.
    """
    check_logits(student, teacher, classes=2)
    check_positive(temperature=temperature)
    where, labels = _labels(where, student, labels)
    student, teacher = unpadded(where, student, lax.stop_gradient(teacher), places=student.ndim - 1)
    log_p, log_q = jax.nn.log_softmax(teacher), jax.nn.log_softmax(student)
    target = -jnp.exp(_of_label(log_p, labels)) * _of_label(log_q, labels)
    p = jnp.exp(_among_others(jax.nn.log_softmax(teacher / temperature), labels))
    log_others = _among_others(jax.nn.log_softmax(student / temperature), labels)
    others = -jnp.sum(jnp.where(p > 0, p * log_others, 0), axis=-1)
    return zeroed(where, target + gamma * temperature**2 * others)


@in_float32
def teacher_free(
    student: Logits,
    labels: Int[Array, "*batch"],
    *,
    correct: float = 0.99,
    temperature: Array | float = 20.0,
    where: Where = None,
) -> Losses:
    """Returns the divergence from a teacher made by hand (Tf-KD_reg; Yuan et al. 2020, arXiv:1909.11723, eq. 9-10).

    That teacher gives `correct` of its output, above 1 / classes and below 1, to the class of the label and the rest to
    the others alike, softened as ``softmax(output / temperature)``. As in the authors' code the student is not
    softened and nothing is multiplied by the square of the temperature; as in the paper, and not in the code, the
    divergence is a sum over the classes, not their mean.

    Raises ValueError for labels that are not one integer a row, a single class, a temperature that is not positive, and
    `correct` out of its range.
    """
    check_classes(student, 2)
    check_positive(temperature=temperature)
    where, labels = _labels(where, student, labels)
    (student,) = unpadded(where, student, places=student.ndim - 1)
    classes = student.shape[-1]
    if not 1 / classes < correct < 1:
        raise ValueError(f"correct {correct!r} is not above 1/{classes} and below 1")
    other = (1 - correct) / (classes - 1)
    output = other + (correct - other) * jax.nn.one_hot(labels, classes, dtype=student.dtype)
    losses = divergence(jax.nn.log_softmax(output / temperature), jax.nn.log_softmax(student))
    return zeroed(where, jnp.where(_are_known(labels, classes), losses, jnp.nan))


def divergence(log_p: Logits, log_q: Logits) -> Losses:
    """Returns ``KL(p || q)``; what has no p adds nothing."""
    there = jnp.isfinite(log_p)
    differences = jnp.where(there, log_p, 0) - jnp.where(there, log_q, 0)
    return jnp.sum(jnp.exp(log_p) * differences, axis=-1)


def _labels(where: Where, logits: Logits, labels: Int[Array, "*batch"]) -> tuple[Array, Array]:
    """Returns which rows count and their labels, 0 in the others; raises ValueError for labels that do not fit."""
    check_labels(logits, labels)
    where, labels = of_labels(where, labels)
    check_known(labels, logits.shape[-1])
    return where, labels


def _are_known(labels: Int[Array, "*batch"], classes: int) -> Array:
    return (labels >= 0) & (labels < classes)


def _correlation(
    a: Float[Array, "rows columns"], b: Float[Array, "rows columns"], where: Where = None
) -> Float[Array, "rows"]:
    """Returns Pearson's correlation of the rows, over the columns that count; 0 for rows of equal entries."""
    return jnp.sum(unit(deviations(a, where=where)) * unit(deviations(b, where=where)), axis=-1)


def _of_label(log_p: Logits, labels: Int[Array, "*batch"]) -> Losses:
    known = _are_known(labels, log_p.shape[-1])
    chosen = jnp.take_along_axis(log_p, jnp.where(known, labels, 0)[..., None], axis=-1)[..., 0]
    return jnp.where(known, chosen, jnp.nan)


def _among_others(log_p: Logits, labels: Int[Array, "*batch"]) -> Logits:
    """Returns log outputs that sum to one over all classes but the label's, which has minus infinity."""
    own = jax.nn.one_hot(labels, log_p.shape[-1], dtype=bool)
    return jax.nn.log_softmax(jnp.where(own, -jnp.inf, log_p))


def _one_against_others(log_p: Logits, labels: Int[Array, "*batch"]) -> Float[Array, "*batch 2"]:
    """Returns the log outputs of the label's class and of all others together."""
    own = jax.nn.one_hot(labels, log_p.shape[-1], dtype=bool)
    others = jax.nn.logsumexp(jnp.where(own, -jnp.inf, log_p), axis=-1)
    return jnp.stack([_of_label(log_p, labels), others], axis=-1)
