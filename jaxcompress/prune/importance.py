"""How important the channels of a model are, by its weights: the larger a score, the longer a channel stays.

A channel is a slice of several parameters, its members (`jaxcompress.channels`). Scores read the members that the
pattern `members` matches, which is held against ``path:axis`` as ``conv1/kernel:3``; by default all arrays of two or
more axes, so neither biases nor scales and statistics of norms. Kernels count with their outputs and their inputs;
``members=r".*kernel:3"`` takes the filters of convolutions alone. Groups of which no member matches get no score, so
that `select` leaves them whole. Scores are by the name of a group, or by its index where several have one name.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from jaxcompress.arrays import dense, densify
from jaxcompress.interpreters.channels import Channels, Member
from jaxcompress.paths import Params, compiled, flatten, replaced
from jaxcompress.prune.groups import keyed, name_of, no_member

Scores = dict[str | int, Array]  # by group, as `groups.keyed`, a score for each channel: float32, not negative


def l1(params: Params, channels: Channels, *, members: str | None = None) -> Scores:
    """Returns the sum of the magnitudes of a channel's weights, the mean over its members.

    With the filters of convolutions as `members` it is the norm of Li et al. 2017 (arXiv:1608.08710). The mean over
    coupled slices is that of Fang et al. 2023 (arXiv:2301.12900): channels are compared within their group, and a group
    does not gain by the number of its layers. Raises ValueError if no member matches.
    """
    return _scores(params, channels, members, lambda slices: _mean([jnp.sum(jnp.abs(s), 1) for s in slices]))


def l2(params: Params, channels: Channels, *, members: str | None = None) -> Scores:
    """Returns the root of the summed squares of a channel's weights, squares averaged over its members; see `l1`."""
    return _scores(params, channels, members, lambda slices: jnp.sqrt(_mean([jnp.sum(s * s, 1) for s in slices])))


def norm_scale(params: Params, channels: Channels, *, members: str = r"(.*/)?scale:\d+") -> Scores:
    """Returns the magnitude of the scale of a channel's normalization, the mean over its members.

    Network slimming (Liu et al. 2017, arXiv:1708.06519) trains with `slimming_penalty` on these scales, and takes the
    channels of the smallest ones of the whole model: ``select(..., scope="global", normalize="none")``. A departure:
    where sums tie the channels of layers together they go together, by the mean of their scales. Raises ValueError if
    no member matches.
    """
    return l1(params, channels, members=members)


def fpgm(params: Params, channels: Channels, *, members: str | None = None) -> Scores:
    """Returns the sum of a channel's distances to the other channels of its group, the mean over its members.

    The channel with the smallest sum lies nearest to the geometric median of all, and the others can stand in for it
    (He et al. 2019, arXiv:1811.00250, who take the filters of a convolution). Distances are Euclidean. Raises
    ValueError if no member matches.
    """
    return _scores(params, channels, members, lambda slices: _mean([_distances(s) for s in slices]))


def taylor(
    loss: Callable[[Params, Any], Array],
    params: Params,
    channels: Channels,
    batches: Iterable[Any],
    *,
    members: str | None = None,
) -> Scores:
    """Returns ``(sum(g * w))**2`` over the weights w of a channel, g the gradient, the mean over `batches`.

    To first order it is the square of how ``loss(params, batch)`` changes without these weights (Molchanov et al. 2019,
    arXiv:1906.10771, section 3). The sum runs over all matching members; ``members=r".*/(scale|bias):0"`` on the norms
    of a model is the paper's choice for networks with batch normalization. Compressed leaves are read as the dense
    arrays that they mean. Raises ValueError if no member matches or there are no batches.
    """
    chosen = _matching(params, channels, members)
    params = densify(params)
    paths = {member.path for found in chosen.values() for member in found}
    weights = {path: leaf for path, leaf in flatten(params).items() if path in paths}

    @jax.jit
    def squares(weights: dict[str, Array], batch: Any) -> Scores:
        gradients = jax.grad(lambda weights: loss(replaced(params, weights), batch))(weights)

        def product(member: Member) -> Array:
            return jnp.sum(_slices(weights[member.path] * gradients[member.path], member), axis=1)

        return {name: jnp.square(_sum([product(member) for member in found])) for name, found in chosen.items()}

    return averaged([(1, squares(weights, batch)) for batch in batches])


def random(key: Array, channels: Channels) -> Scores:
    """Draws a score for each channel, uniform in [0, 1): the control that every other score must beat."""
    keys = jax.random.split(key, len(channels.groups))
    return {n: jax.random.uniform(k, (g.channels,)) for (n, g), k in zip(keyed(channels).items(), keys, strict=True)}


def averaged(batches: list[tuple[int, Scores]]) -> Scores:
    """Averages the scores of batches, each given with its weight; raises ValueError if there are none."""
    if not batches:
        raise ValueError("there are no batches; at least one is needed")
    weights = [weight for weight, _ in batches]
    found = {name: np.asarray([of[name] for _, of in batches], np.float64) for name in batches[0][1]}
    return {name: jnp.asarray(np.average(each, 0, weights), jnp.float32) for name, each in found.items()}


def _scores(
    params: Params,
    channels: Channels,
    members: str | None,
    score: Callable[[list[Float[Array, "channels entries"]]], Float[Array, "channels"]],
) -> Scores:
    leaves = flatten(params)

    def of(found: tuple[Member, ...]) -> Array:
        return score([_slices(dense(leaves[member.path]), member) for member in found])

    return {name: of(found) for name, found in _matching(params, channels, members).items()}


def _matching(params: Params, channels: Channels, members: str | None) -> dict[str | int, tuple[Member, ...]]:
    """Returns the members to score of every group that has any."""
    leaves = flatten(params)
    unknown = [m.path for group in channels.groups for m in group.members if m.path not in leaves]
    if unknown:
        raise ValueError(f"there is no parameter {unknown[0]!r}; the channels are those of another model")

    pattern = None if members is None else compiled(members)

    def chosen(member: Member) -> bool:
        if pattern is None:
            return leaves[member.path].ndim > 1
        return pattern.fullmatch(name_of(member)) is not None

    by_group = {key: tuple(filter(chosen, group.members)) for key, group in keyed(channels).items()}
    found = {key: chosen for key, chosen in by_group.items() if chosen}
    if not found and members is not None:
        raise ValueError(no_member(channels, members))
    if not found:
        raise ValueError("no group of channels has a member of two or more axes")
    return found


def _slices(array: Array, member: Member) -> Float[Array, "channels entries"]:
    """Returns the entries of each channel, in float32."""
    taken = jnp.moveaxis(jnp.take(array.astype(jnp.float32), member.indices, axis=member.axis), member.axis, 0)
    return taken.reshape(len(member.indices), -1)


def _distances(slices: Float[Array, "channels entries"]) -> Float[Array, "channels"]:
    """Sums the distances of each row to all rows; one row at a time, so that no more than the slices are held."""
    return jax.lax.map(lambda row: jnp.sum(jnp.linalg.norm(slices - row[None], axis=1)), slices)


def _sum(values: list[Array]) -> Array:
    return sum(values[1:], values[0])


def _mean(values: list[Array]) -> Array:
    return _sum(values) / len(values)
