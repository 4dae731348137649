"""Small trainable layers by which a student's features are compared with its teacher's.

They are trained with the student and left behind with the teacher. Each has parameters, nested dicts of arrays made
from a key and numbers of channels, and a function of these and of features with the channels last. Normalizations
compute in float32 and give back the dtype of their features.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from jaxcompress.distill.checks import check_maps
from jaxcompress.distill.padding import Where, mean, unpadded
from jaxcompress.distill.precision import widened
from jaxcompress.paths import Params

_EPSILON = 1e-5  # added to the variances of batch normalization


def regressor(key: Array, *channels: int) -> Params:
    """Draws layers from the first number of `channels` to the second, and so on; two make one linear map.

    Kernels are those of He et al. (2015, arXiv:1502.01852), biases zero. Raises ValueError for fewer than two numbers
    or one that is not positive.
    """
    if len(channels) < 2 or min(channels) < 1:
        raise ValueError(f"channels {channels} are not two or more positive numbers")
    keys = jax.random.split(key, len(channels) - 1)
    pairs = zip(keys, channels[:-1], channels[1:], strict=True)
    return {f"layer{i}": {"kernel": _he(k, a, b), "bias": jnp.zeros(b)} for i, (k, a, b) in enumerate(pairs, 1)}


def regress(params: Params, features: Float[Array, "*places inputs"]) -> Float[Array, "*places outputs"]:
    """Maps features by a `regressor`, every place alike, with a ReLU between its layers.

    Raises ValueError for features with another number of channels than the regressor was made for.
    """
    for number in range(1, len(params) + 1):
        layer = params[f"layer{number}"]
        _check_channels(features, layer["kernel"])
        features = (jax.nn.relu(features) if number > 1 else features) @ layer["kernel"]
        features = features + jnp.broadcast_to(layer["bias"], features.shape)
    return features


def connector(key: Array, inputs: int, outputs: int, size: int = 1) -> Params:
    """Draws a convolution of `size` times `size` with a batch normalization behind it."""
    if inputs < 1 or outputs < 1 or size < 1:
        raise ValueError(f"a connector of {inputs} to {outputs} channels, size {size}: all must be positive")
    shape = (size, size, inputs, outputs)
    return {"kernel": _he(key, *shape), "scale": jnp.ones(outputs), "bias": jnp.zeros(outputs)}


def connect(
    params: Params, features: Float[Array, "batch h w inputs"], *, where: Where = None
) -> Float[Array, "batch h w outputs"]:
    """Maps features by a `connector`; they are normalized by the batch that they come in, padded with zeros.

    `where`, booleans (batch,), is false for examples that are left out of the batch's statistics.

    Raises ValueError for features with another number of channels than the connector was made for.
    """
    check_maps(features)
    _check_channels(features, params["kernel"])
    (features,) = unpadded(where, features)
    return normalized(convolve(features, params["kernel"]), params["scale"], params["bias"], where=where)


def convolve(
    features: Float[Array, "batch h w inputs"], kernel: Float[Array, "size size inputs outputs"]
) -> Float[Array, "batch h w outputs"]:
    """Convolves features that are padded with zeros to their own size."""
    return lax.conv_general_dilated(features, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def normalized(
    features: Float[Array, "batch *places channels"],
    scale: Float[Array, "channels"],
    bias: Float[Array, "channels"],
    *,
    where: Where = None,
) -> Float[Array, "batch *places channels"]:
    """Normalizes channels by their mean and variance over the batch (Ioffe & Szegedy 2015, arXiv:1502.03167)."""
    dtype, (features, scale, bias) = features.dtype, widened((features, scale, bias))
    places = tuple(range(features.ndim - 1))
    shape = (1,) * len(places) + (-1,)
    centred = features - mean(features, where, places).reshape(shape)
    variance = mean(jnp.square(centred), where, places).reshape(shape)
    return (centred * lax.rsqrt(variance + _EPSILON) * scale.reshape(shape) + bias.reshape(shape)).astype(dtype)


def _he(key: Array, *shape: int) -> Array:
    return jax.nn.initializers.he_normal()(key, shape)


def _check_channels(features: Array, kernel: Array) -> None:
    if features.shape[-1] != kernel.shape[-2]:
        raise ValueError(f"features {features.shape} do not have the {kernel.shape[-2]} channels of their regressor")
