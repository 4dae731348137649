"""Distillation from the logits of a teacher."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float


def kd(
    student: Float[Array, "*batch classes"],
    teacher: Float[Array, "*batch classes"],
    temperature: Array | float = 4.0,
) -> Float[Array, "*batch"]:
    """Returns the Kullback-Leibler divergence of softened outputs, per example (Hinton et al. 2015, arXiv:1503.02531).

    ``T**2 * sum(p * (log p - log q))`` with p the teacher's and q the student's softmax at temperature T > 0. The
    factor T**2 keeps the gradient's size when the temperature changes (section 2). The paper writes the cross-entropy,
    which differs by the teacher's entropy and has the same gradient; this form is 0 for equal logits. The teacher is
    frozen: no gradient reaches its logits.

    Raises ValueError for shapes that differ or a temperature that is known not to be positive.
    """
    if student.shape != teacher.shape:
        raise ValueError(f"student logits {student.shape} and teacher logits {teacher.shape} differ in shape")
    if isinstance(temperature, int | float) and not temperature > 0:
        raise ValueError(f"temperature {temperature!r} is not positive")
    log_p = jax.nn.log_softmax(jax.lax.stop_gradient(teacher) / temperature)
    log_q = jax.nn.log_softmax(student / temperature)
    return temperature**2 * jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
