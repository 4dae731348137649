"""What holds of a model whose adapter closes over its batch statistics."""

import jax
import numpy as np

from jaxcompress import channels, macs
from jaxcompress.prune import mask, remove


def check_statistics_are_cut(apply, params, x):
    """Removes half of the channels: the model equals the masked one, and puts no statistics back to full width."""
    found = channels(apply, params, x)
    kept = {i: np.arange(group.channels) % 2 == 1 for i, group in enumerate(found.groups)}
    assert kept and not found.pinned
    cut, masked = remove(params, found, kept), mask(params, found, kept)
    np.testing.assert_allclose(jax.jit(apply)(cut, x), jax.jit(apply)(masked, x), rtol=1e-4, atol=1e-4)
    text = str(jax.make_jaxpr(apply)(cut, x))
    assert not any(operation in text for operation in ("scatter", "gather[", "pad["))
    assert macs(apply, cut, x) < 0.6 * macs(apply, params, x)
