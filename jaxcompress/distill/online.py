"""Distillation without a trained teacher: networks, branches or exits that are trained together teach each other.

`where` is as for `kd`, which these losses are made of.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from jaxcompress.distill.checks import check_same_shape
from jaxcompress.distill.logits import kd
from jaxcompress.distill.padding import Where
from jaxcompress.distill.precision import in_float32

Logits = Float[Array, "batch classes"]
Losses = Float[Array, "batch"]


def mutual(logits: Sequence[Logits], *, where: Where = None) -> Float[Array, "networks batch"]:
    """Returns for each network the mean divergence from the others (DML; Zhang et al. 2018, arXiv:1706.00384, eq. 6-7).

    It is what each adds to its own cross-entropy; the others are taken as they stand, so that each network is moved by
    its own row alone. Raises ValueError for fewer than two networks or shapes that differ.
    """
    if len(logits) < 2:
        raise ValueError(f"{len(logits)} networks cannot teach each other; at least two are needed")
    rows = []
    for own in range(len(logits)):
        others = [kd(logits[own], other, 1.0, where=where) for index, other in enumerate(logits) if index != own]
        rows.append(sum(others[1:], others[0]) / len(others))
    return jnp.stack(rows)


@in_float32
def gated(gate: Float[Array, "batch branches"], branches: Sequence[Logits]) -> Logits:
    """Returns the logits of an ensemble of branches (ONE; Lan et al. 2018, arXiv:1806.04606, eq. 4).

    Those of the branches are weighed by the softmax of the `gate`, which is trained with them. Raises ValueError unless
    the gate has one number for each example and branch, and the branches' logits are (batch, classes) alike.
    """
    if not branches or gate.shape != (*branches[0].shape[:1], len(branches)) or branches[0].ndim != 2:
        shapes = [branch.shape for branch in branches]
        raise ValueError(f"a gate {gate.shape} does not weigh {len(branches)} branches of logits {shapes}")
    for other in branches[1:]:
        check_same_shape(branches[0], other, "logits")
    return jnp.einsum("bn,nbc->bc", jax.nn.softmax(gate), jnp.stack(list(branches)))


def ensemble(
    gate: Float[Array, "batch branches"], branches: Sequence[Logits], temperature: float = 3.0, *, where: Where = None
) -> Float[Array, "branches batch"]:
    """Returns for each branch its divergence from the `gated` ensemble, softened (ONE, arXiv:1806.04606, eq. 7).

    The ensemble, which learns by its own cross-entropy alone, is taken as it stands. Raises ValueError as `kd` does.
    """
    teacher = gated(gate, branches)
    return jnp.stack([kd(branch, teacher, temperature, where=where) for branch in branches])


def own_teacher(
    exits: Sequence[Logits], temperature: float = 3.0, *, where: Where = None
) -> Float[Array, "exits batch"]:
    """Returns for each earlier exit its divergence from the last, the teacher of a network in itself.

    Be Your Own Teacher (Zhang et al. 2019, arXiv:1905.08094, eq. 5); to that come the cross-entropy of all exits, and
    `hint` between their features (eq. 6). Raises ValueError for fewer than two exits, and as `kd` does.
    """
    if len(exits) < 2:
        raise ValueError(f"{len(exits)} exits have no earlier one to be taught; at least two are needed")
    return jnp.stack([kd(exit_, exits[-1], temperature, where=where) for exit_ in exits[:-1]])


@in_float32
def averaged(teachers: Sequence[Logits], temperature: Array | float = 1.0) -> Logits:
    """Returns the logits whose softmax at a temperature is the mean of several teachers' softmax at it.

    By them any loss learns from all teachers at once (Hinton et al. 2015, arXiv:1503.02531, section 2: the arithmetic
    mean of an ensemble). Raises ValueError without a teacher, and for shapes that differ.
    """
    if not teachers:
        raise ValueError("there is no teacher; at least one is needed")
    for other in teachers[1:]:
        check_same_shape(teachers[0], other, "logits")
    log_outputs = jax.nn.log_softmax(lax.stop_gradient(jnp.stack(list(teachers))) / temperature)
    return temperature * (jax.nn.logsumexp(log_outputs, axis=0) - jnp.log(float(len(teachers))))
