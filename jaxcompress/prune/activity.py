"""How important the channels of a model are, by their activations: the larger a score, the longer a channel stays.

The activations of a channel are those that the layers which read it are given: behind the activation function and the
pooling of the layer that makes it. Where several layers read a group, its score is the mean over them.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import primitives as prim
from jaxtyping import Float

from jaxcompress.interpreters.channels import Channels
from jaxcompress.paths import Params
from jaxcompress.prune.groups import matching
from jaxcompress.prune.importance import Scores, averaged
from jaxcompress.prune.readers import Reading, readings

Apply = Callable[..., Any]


def mean_activation(
    apply: Apply, params: Params, channels: Channels, batches: Iterable[Array], *, groups: str = ".*"
) -> Scores:
    """Returns the mean magnitude of a channel's activations over `batches` of inputs and all places.

    ``apply(params, x)`` is the model as in inference. Only groups of which `groups` matches a
    member, as ``path:axis``, get a score. Raises
    ValueError for a pattern without a match, a group that no product or convolution with a kernel reads as its input
    (its name is in the message), and if there are no batches.
    """
    return _measured(apply, params, channels, batches, groups, lambda r: jnp.mean(jnp.abs(_entries(r)), axis=1))


def apoz(apply: Apply, params: Params, channels: Channels, batches: Iterable[Array], *, groups: str = ".*") -> Scores:
    """Returns ``1 - APoZ``, the fraction of a channel's activations that are not zero; otherwise `mean_activation`.

    APoZ is the average percentage of zeros behind a ReLU (Hu et al. 2016, arXiv:1607.03250).
    """
    return _measured(apply, params, channels, batches, groups, lambda r: jnp.mean(_entries(r) != 0, axis=1))


def hrank(apply: Apply, params: Params, channels: Channels, batches: Iterable[Array], *, groups: str = ".*") -> Scores:
    """Returns the mean rank of a channel's feature maps over `batches` (Lin et al. 2020, arXiv:2002.10179).

    The rank of a map counts its singular values above the largest times its longer side times float32's epsilon. As
    `mean_activation`, but only convolutions over height and width count as readers, and a group without any is refused:
    channels that are flattened, or averaged over the image, have no maps left. A departure: a map is taken as the next
    convolution reads it, behind a pooling.
    """
    return _measured(apply, params, channels, batches, groups, _ranks, _has_maps, "a convolution over height and width")


def _measured(
    apply: Apply,
    params: Params,
    channels: Channels,
    batches: Iterable[Array],
    groups: str,
    measure: Callable[[Reading], Array],
    serves: Callable[[Reading], bool] = lambda _: True,
    reader: str = "a product or convolution with a kernel",
) -> Scores:
    chosen = matching(channels, groups)

    @jax.jit
    def scores(params: Params, x: Array) -> Scores:
        found = {}
        for name, given in readings(apply, params, chosen, x).items():
            values = [measure(reading) for reading in given if serves(reading)]
            if not values:
                raise ValueError(f"{chosen[name].name} is not read by {reader}; leave it out by the pattern `groups`")
            found[name] = sum(values[1:], values[0]) / len(values)
        return found

    return averaged([(len(x), scores(params, jnp.asarray(x))) for x in batches])


def _entries(reading: Reading) -> Float[Array, "channels entries"]:
    """Returns all activations of each channel, in float32."""
    taken = jnp.take(reading.activation, reading.rows, axis=reading.axis).astype(jnp.float32)
    return jnp.moveaxis(taken, reading.axis, 0).reshape(len(reading.rows), -1)


def _has_maps(reading: Reading) -> bool:
    return reading.use.primitive is prim.conv_general_dilated_p and reading.activation.ndim == 4


def _ranks(reading: Reading) -> Float[Array, "channels"]:
    batch, channel, height, width = reading.use.params["dimension_numbers"].lhs_spec
    maps = jnp.transpose(reading.activation, (channel, batch, height, width)).astype(jnp.float32)
    return jnp.mean(jnp.linalg.matrix_rank(maps[reading.rows]).astype(jnp.float32), axis=(1, 2))
