"""Releases of jaxlib that compute wrong values, and programs that show it."""

import os
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jaxlib.version import __version__

from jaxcompress.compilers import WrongResults, warn_of_wrong_results

FLAG = "--xla_cpu_experimental_ynn_fusion_type="


def warned(*args):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_wrong_results(*args)
    return [str(warning.message) for warning in caught if warning.category is WrongResults]


def test_a_wrong_release_is_named_with_what_to_do():
    (message,) = warned("0.10.2", "", "")
    assert "jaxlib 0.10.2" in message and "0.10.1" in message and FLAG in message
    assert len(warned("0.10.2", "--xla_force_host_platform_device_count=2", "cpu")) == 1


@pytest.mark.parametrize("version", ["0.10.0", "0.10.1", "0.11.0", "0.11.2", "0.12.0.1", "0.10.20"])
def test_other_releases_are_not(version):
    assert not warned(version, "", "")


def test_neither_is_one_that_computes_right_values_here():
    assert not warned("0.10.2", f"--xla_cpu_enable_fast_math=false {FLAG}", "")
    assert not warned("0.10.2", "", "cuda")
    assert len(warned("0.10.2", "", "cuda,cpu")) == 1


def test_importing_the_library_warns_once():
    script = """
import warnings, jax, jaxlib.version
jaxlib.version.__version__ = "0.10.2"
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import jaxcompress
    from jaxcompress import prune
told = [w for w in caught if w.category is jaxcompress.compilers.WrongResults]
assert len(told) == 1, caught
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=os.environ | {"XLA_FLAGS": ""}
    )
    assert done.returncode == 0, done.stderr


# Programs on which jaxlib 0.10.2 is wrong under jit: an array that is padded in its channels and convolved, and what
# they sum to reduced. Their blocks are those of BlazeFace (Bazarevsky et al. 2019, arXiv:1907.05047).

wrong_release = pytest.mark.skipif(
    __version__ == "0.10.2", reason="jaxlib 0.10.2 computes wrong values on CPUs, which is why it is excluded"
)


def drawn(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def depthwise(x, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=24)


def wider(x):
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, 4)))


def relu(x):
    return jnp.maximum(x, 0)


def max_pool(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


@wrong_release
@pytest.mark.parametrize("size", [16, 64])
@pytest.mark.parametrize(
    "reduced", [max_pool, lambda x: x.mean((1, 2)), lambda x: x.sum(0)], ids=["max", "mean", "sum"]
)
def test_a_padded_shortcut_equals_eager_under_jit(reduced, size):
    x, kernel = drawn(1, size, size, 24), drawn(3, 3, 1, 24)

    def block(x):
        return reduced(wider(relu(x)) + wider(depthwise(relu(x), kernel)))

    np.testing.assert_allclose(jax.jit(block)(x), block(x), atol=1e-4)


@wrong_release
def test_blocks_of_blazeface_equal_eager_under_jit():
    """Single blocks in a row: depthwise 5x5, pointwise, a shortcut that is pooled and padded, a stride every second."""
    x = drawn(1, 64, 64, 24)
    kernels = [(drawn(5, 5, 1, 24) / 5, drawn(1, 1, 24, 28) / 5), (drawn(5, 5, 1, 28) / 5, drawn(1, 1, 28, 32) / 5)]

    def network(x):
        for i, (space, channels) in enumerate(kernels):
            numbers = ("NHWC", "HWIO", "NHWC")
            stride = (i + 1, i + 1)
            moved = lax.conv_general_dilated(
                x, space, stride, "SAME", dimension_numbers=numbers, feature_group_count=x.shape[-1]
            )
            moved = lax.conv_general_dilated(moved, channels, (1, 1), "SAME", dimension_numbers=numbers)
            x = relu(moved + wider(max_pool(x) if i else x))
        return x.mean((1, 2))

    np.testing.assert_allclose(jax.jit(network)(x), network(x), atol=1e-4)
