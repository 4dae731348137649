"""Contrastive distillation: an example's two embeddings are near, those of different examples far.

CRD (Tian, Krishnan & Isola 2020, arXiv:1910.10699) takes its negatives from a memory with an embedding of every
training example by both networks. `in_batch` takes them from the batch. Losses are computed
in float32 where embeddings are of half precision. `where`, booleans (batch,), is false for examples that are padding:
they have no loss, are none of the others' negatives and leave the memory as it is.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int

from jaxcompress.distill.checks import check_embeddings, check_positive
from jaxcompress.distill.padding import Where, mean, unpadded, zeroed
from jaxcompress.distill.precision import in_float32, widened
from jaxcompress.numerics.vectors import unit

Embeddings = Float[Array, "batch features"]
Losses = Float[Array, "batch"]

_SMALLEST = 1e-7  # added to what is divided by


class Memory(NamedTuple):
    """Holds an embedding of length one of every training example by each network, (examples, features) both.

    The constants are those that the outputs are divided by, not positive before the first batch sets them.
    """

    student: Array
    teacher: Array
    student_constant: Array
    teacher_constant: Array


def memory(key: Array, examples: int, features: int) -> Memory:
    """Draws the memory of a training set; it takes ``8 * examples * features`` bytes.

    Entries are uniform within plus and minus ``1 / sqrt(features / 3)``, as in the authors' code. Raises ValueError for
    numbers that are not positive.
    """
    check_positive(examples=examples, features=features)
    bound = (features / 3) ** -0.5
    shape = (2, examples, features)
    student, teacher = jax.random.uniform(key, shape, minval=-bound, maxval=bound)
    return Memory(student, teacher, jnp.float32(-1), jnp.float32(-1))


def negatives(
    key: Array, labels: Int[Array, "examples"], chosen: Int[Array, "batch"], number: int
) -> Int[Array, "batch number"]:
    """Draws, with replacement, examples with another label than each of the `chosen` examples has.

    Raises ValueError for a number that is not positive. Every label needs one of another.
    """
    check_positive(number=number)
    order = jnp.argsort(labels, stable=True)
    ordered = labels[order]
    first = jnp.searchsorted(ordered, labels[chosen], side="left")[:, None]
    count = jnp.searchsorted(ordered, labels[chosen], side="right")[:, None] - first
    # Uniform over the places outside of the label's own run.
    others = len(labels) - count
    place = jax.random.randint(key, (len(chosen), number), 0, jnp.broadcast_to(others, (len(chosen), number)))
    return order[jnp.where(place < first, place, place + count)]


def crd(
    state: Memory,
    student: Embeddings,
    teacher: Embeddings,
    chosen: Int[Array, "batch"],
    others: Int[Array, "batch negatives"],
    *,
    temperature: float = 0.07,
    momentum: float = 0.5,
    where: Where = None,
) -> tuple[Losses, Memory]:
    """Returns the loss of CRD, per example, and the memory after it (arXiv:1910.10699, eq. 17-19 and appendix).

    The embeddings are of the examples at the indices `chosen` of the training set, by two trained regressors; `others`
    are their `negatives`. They are made of length one. The student's are compared with the teacher's memory and the
    teacher's with the student's, by noise-contrastive estimation. Memory moves to the new embeddings, keeping
    `momentum` of the old. The constants are set by the first batch, as in the authors' code. Gradients reach both
    embeddings, since both have regressors, and none the memory.

    Raises ValueError for embeddings that differ in shape or from the memory, indices that are not of their batch, a
    temperature that is not positive and a momentum outside of [0, 1).
    """
    check_embeddings(student, teacher)
    check_positive(temperature=temperature)
    if chosen.shape != student.shape[:1] or others.ndim != 2 or len(others) != len(chosen):
        raise ValueError(f"indices {chosen.shape} and negatives {others.shape} do not fit embeddings {student.shape}")
    if student.shape[1:] != state.student.shape[1:]:
        raise ValueError(f"embeddings {student.shape} do not fit a memory {state.student.shape}")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum {momentum!r} is not in [0, 1)")
    student, teacher = (unit(x) for x in widened(unpadded(where, student, teacher)))
    (compared,) = unpadded(where, jnp.concatenate([chosen[:, None], others], axis=1))
    examples = len(state.student)
    ours, our_constant = _outputs(state.teacher, state.student_constant, student, compared, temperature, where)
    theirs, their_constant = _outputs(state.student, state.teacher_constant, teacher, compared, temperature, where)
    losses = zeroed(where, _estimation(ours, examples) + _estimation(theirs, examples))
    chosen = chosen if where is None else jnp.where(where, chosen, examples)  # an index that nothing is written to
    moved = Memory(
        _moved(state.student, chosen, student, momentum),
        _moved(state.teacher, chosen, teacher, momentum),
        our_constant,
        their_constant,
    )
    return losses, lax.stop_gradient(moved)


@in_float32
def in_batch(
    student: Embeddings, teacher: Embeddings, *, temperature: Array | float = 0.07, where: Where = None
) -> Losses:
    """Returns the cross-entropy of telling an example's own teacher from those of its batch (InfoNCE).

    Outputs are cosines divided by the `temperature`, above 0 (van den Oord et al. 2018, arXiv:1807.03748, eq. 4). No
    gradient is stopped: both embeddings may come out of trained regressors. Raises ValueError for shapes that differ.
    """
    check_embeddings(student, teacher)
    check_positive(temperature=temperature)
    student, teacher = unpadded(where, student, teacher)
    outputs = unit(student) @ unit(teacher).T / temperature
    if where is not None:
        outputs = jnp.where(where[None] | jnp.eye(len(where), dtype=bool), outputs, -jnp.inf)
    return zeroed(where, -jnp.diagonal(jax.nn.log_softmax(outputs)))


def _outputs(
    bank: Array,
    constant: Array,
    embeddings: Embeddings,
    compared: Int[Array, "batch n"],
    temperature: float,
    where: Where,
) -> tuple[Float[Array, "batch n"], Array]:
    """Returns exponentials of similarities to entries of the memory, divided by the constant, and that constant."""
    similar = jnp.einsum("bnf,bf->bn", widened(bank[compared]), embeddings)
    raw = jnp.exp(similar / temperature)
    average = lax.stop_gradient(mean(raw, where, (0, 1)))
    average = average if where is None else jnp.where(jnp.any(where), average, 1 / len(bank))
    used = jnp.where(constant > 0, widened(constant), average * len(bank))
    return raw / used, used.astype(constant.dtype)


def _estimation(outputs: Float[Array, "batch n"], examples: int) -> Losses:
    """Returns the negative log-likelihood of telling the first output of each row from noise."""
    number = outputs.shape[1] - 1
    noise = number / examples
    own = jnp.log(outputs[:, 0] / (outputs[:, 0] + noise + _SMALLEST))
    rest = jnp.log(noise / (outputs[:, 1:] + noise + _SMALLEST))
    return -(own + jnp.sum(rest, axis=1))


def _moved(bank: Array, chosen: Array, embeddings: Embeddings, momentum: float) -> Array:
    moved = momentum * widened(bank[chosen]) + (1 - momentum) * embeddings
    return bank.at[chosen].set(unit(moved).astype(bank.dtype), mode="drop")
