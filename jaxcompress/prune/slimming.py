"""Network slimming: the scales of normalizations are driven to zero while training (Liu et al. 2017)."""

import jax.numpy as jnp
from jax import Array, lax

from jaxcompress.arrays import dense
from jaxcompress.paths import Params, select


def slimming_penalty(params: Params, pattern: str = r"(.*/)?scale", *, strength: float | Array = 1.0) -> Array:
    """Returns ``strength * sum(|scale|)`` over the scales whose path matches `pattern`, a float32 scalar for the loss.

    Its subgradient at zero is zero, as that of the authors' code (arXiv:1708.06519, eq. 1; their strength is 1e-4 for
    VGG and 1e-5 for ResNets on CIFAR). `prune.importance.norm_scale` then ranks the channels. Differentiable and
    traceable. Raises ValueError for a pattern without a match.
    """
    scales = [dense(leaf).astype(jnp.float32) for leaf in select(params, pattern).values()]
    # |x| as x times its sign: JAX's derivative of abs at zero is one.
    magnitudes = [jnp.sum(x * lax.stop_gradient(jnp.sign(x))) for x in scales]
    return jnp.asarray(strength, jnp.float32) * sum(magnitudes[1:], magnitudes[0])
