"""Checks in what precision kernels are factorized, and that what has no factors is refused by path and dtype."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import factorize

KEY = jax.random.key(0)
KERNEL = jnp.asarray(np.random.default_rng(0).standard_normal((3, 3, 8, 8)), jnp.float32)
METRIC = {"w": jnp.diag(jnp.linspace(1.0, 4.0, 72))}
FORMS = {
    "svd": lambda: factorize.svd("w", 4, always=True),
    "randomized": lambda: factorize.svd("w", 4, key=KEY, always=True),
    "whitened": lambda: factorize.svd("w", 4, metric=METRIC, always=True),
    "energy": lambda: factorize.svd("w", energy=0.6, always=True),
    "spatial": lambda: factorize.svd("w", 5, split="spatial", always=True),
    "tucker2": lambda: factorize.tucker2("w", 4, always=True),
    "tucker2_vbmf": lambda: factorize.tucker2("w", factorize.vbmf(), always=True),
    "tucker": lambda: factorize.tucker("w", (2, 2, 4, 4), always=True),
    "cp": lambda: factorize.cp("w", 6, key=KEY, always=True),
    "tensor_train": lambda: factorize.tensor_train("w", (4, 2), (2, 4), 4, always=True),
    "kronecker": lambda: factorize.kronecker("w", (4, 2), 2, always=True),
}
EVERY = pytest.mark.parametrize("name", FORMS)


def relative(found, wanted) -> float:
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize(("dtype", "bound"), [(jnp.bfloat16, 2e-2), (jnp.float16, 5e-3)])
@EVERY
@pytest.mark.sampled(3)
def test_half_precision_is_computed_in_float32_and_given_back(name, dtype, bound):
    leaf = FORMS[name]().init({"w": KERNEL.astype(dtype)})["w"]
    assert {part.dtype for part in leaf.parts()} == {jnp.dtype(dtype)} and leaf.dense().dtype == dtype
    assert relative(leaf.dense(), FORMS[name]().init({"w": KERNEL})["w"].dense()) < bound


@pytest.mark.parametrize("name", [name for name in FORMS if name != "energy"])  # which chooses another rank
def test_double_precision_stays_and_is_exact_to_it(name):
    """A kernel that every form can mean exactly comes back to far below what float32 could."""
    with jax.enable_x64(True):
        draw = np.random.default_rng(1).standard_normal
        inputs, outputs = np.kron(draw(4), draw(2)), np.kron(draw(2), draw(4))
        kernel = np.einsum("h,w,i,o->hwio", draw(3), draw(3), inputs, outputs)
        leaf = FORMS[name]().init({"w": jnp.asarray(kernel)})["w"]
        assert leaf.dense().dtype == jnp.float64
        assert relative(leaf.dense(), kernel) < (1e-5 if name == "cp" else 1e-12)  # its ridge bounds the fit


@pytest.mark.parametrize("scale", [1e20, 1e-20])
@EVERY
def test_squares_of_large_and_small_weights_neither_overflow_nor_vanish(name, scale):
    whole, scaled = (FORMS[name]().init({"w": kernel})["w"] for kernel in (KERNEL, KERNEL * jnp.float32(scale)))
    assert [part.shape for part in whole.parts()] == [part.shape for part in scaled.parts()]
    assert relative(np.asarray(scaled.dense(), np.float64) / scale, whole.dense()) < 1e-3


@pytest.mark.parametrize(("dtype", "peak"), [(jnp.float16, 6e4), (jnp.float32, 3e38), (jnp.bfloat16, 3e38)])
@EVERY
def test_factors_near_the_largest_number_are_right_or_refused(name, dtype, peak):
    kernel = (jnp.sign(KERNEL) * peak).astype(dtype)
    try:
        leaf = FORMS[name]().init({"w": kernel})["w"]
    except ValueError as error:
        assert f"w of dtype {jnp.dtype(dtype)}" in str(error) or "no canonical polyadic fit" in str(error)
    else:
        signs = FORMS[name]().init({"w": jnp.sign(KERNEL)})["w"].dense()
        assert relative(np.asarray(leaf.dense(), np.float64) / peak, signs) < 2e-2


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.int32, jnp.uint8, jnp.bool_, jnp.complex64])
@EVERY
def test_what_is_not_floating_point_is_refused_by_path_and_dtype(name, dtype):
    message = re.escape(f"w of dtype {jnp.dtype(dtype)} cannot be factorized; weights are floating-point")
    with pytest.raises(ValueError, match=message):
        FORMS[name]().init({"w": jnp.ones((3, 3, 8, 8), dtype)})


@pytest.mark.parametrize("shape", [(0, 8), (8, 0), (3, 3, 0, 8)])
@EVERY
def test_an_empty_kernel_is_refused_by_path(name, shape):
    with pytest.raises(ValueError, match=re.escape(f"w of shape {shape} is empty")):
        FORMS[name]().init({"w": jnp.zeros(shape)})


@EVERY
def test_a_number_of_python_is_refused_by_path(name):
    with pytest.raises(ValueError, match="w is a float, no array"):
        FORMS[name]().init({"w": 2.0})
