"""Checks what errors are weighed by: inputs as a model computes them, and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import factorize
from jaxcompress.numerics.second_moment import damped

DRAW = np.random.default_rng(0)
X = [jnp.asarray(DRAW.standard_normal((30, 6, 6, 3)) * np.float32([4.0, 1.0, 0.1]), jnp.float32) for _ in range(2)]
PARAMS = {
    "conv": jnp.asarray(DRAW.standard_normal((3, 3, 3, 8)), jnp.float32),
    "fc": jnp.asarray(DRAW.standard_normal((8, 5)), jnp.float32),
}


def apply(params, x):
    numbers = ("NHWC", "HWIO", "NHWC")
    x = jax.lax.conv_general_dilated(x, params["conv"], (1, 1), "VALID", dimension_numbers=numbers)
    return jax.nn.relu(x).mean((1, 2)) @ params["fc"]


def inputs_of_fc() -> np.ndarray:
    return np.concatenate([np.asarray(apply(PARAMS | {"fc": jnp.eye(8)}, x)) for x in X])


def test_second_moments_are_those_of_the_inputs():
    found = factorize.second_moments(apply, PARAMS, "conv|fc", X, damping=0.0)
    assert found["conv"].shape == (27, 27)
    hidden = inputs_of_fc()
    expected = damped(jnp.asarray(hidden.T @ hidden, jnp.float32), 0.0)
    np.testing.assert_allclose(found["fc"], expected, rtol=1e-4)


@pytest.mark.parametrize("path", ["conv", "fc"])
def test_whitening_leaves_the_least_error_of_the_outputs_on_the_inputs_given(path):
    metric = factorize.second_moments(apply, PARAMS, path, X, damping=1e-7)
    white = factorize.svd(path, 2, metric=metric).init(PARAMS)[path].dense()
    plain = factorize.svd(path, 2).init(PARAMS)[path].dense()
    if path == "fc":
        rows = inputs_of_fc()
    else:
        windows = np.concatenate([np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2)) for x in X])
        rows = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 27)
    rows = rows.astype(np.float64)
    weight = np.asarray(PARAMS[path], np.float64).reshape(-1, PARAMS[path].shape[-1])
    error = lambda kernel: float(np.sum((rows @ (np.asarray(kernel, np.float64).reshape(weight.shape) - weight)) ** 2))
    bound = float(np.sum(np.linalg.svd(rows @ weight, compute_uv=False)[2:] ** 2))
    assert error(white) == pytest.approx(bound, rel=1e-3) and error(white) < error(plain)


def test_activation_scales_by_hand():
    found = factorize.activation_scales(apply, PARAMS, "fc", X, alpha=0.5)["fc"]
    magnitude = np.abs(inputs_of_fc()).sum(0)
    np.testing.assert_allclose(found, magnitude / magnitude.max(), rtol=1e-4)
    squared = factorize.activation_scales(apply, PARAMS, "fc", X, alpha=1.0)["fc"]
    np.testing.assert_allclose(squared, found**2, rtol=1e-4)


def test_fisher_sums_the_squared_slopes_of_a_row():
    loss = lambda params, x: jnp.mean(jnp.square(apply(params, x)))
    found = factorize.fisher(loss, PARAMS, "fc", X)["fc"]
    slopes = [np.asarray(jax.grad(loss)(PARAMS, x)["fc"], np.float64) for x in X]
    np.testing.assert_allclose(found, sum(np.sum(s**2, 1) for s in slopes), rtol=1e-4)
    assert factorize.svd("fc", 2, metric={"fc": found}).init(PARAMS)["fc"].rank == 2


def test_a_factorization_weighed_by_fisher_errs_where_the_loss_looks_away():
    weights = jnp.float32([100.0, 1, 1, 1, 1, 1, 1, 1])
    close = lambda metric: jnp.abs(factorize.svd("fc", 2, metric=metric).init(PARAMS)["fc"].dense() - PARAMS["fc"])[0]
    assert float(close({"fc": weights}).sum()) < 0.2 * float(close({"fc": jnp.ones(8)}).sum())


def test_bad_metrics_are_named_by_path():
    with pytest.raises(ValueError, match="no batches of inputs"):
        factorize.second_moments(apply, PARAMS, "fc", [])
    with pytest.raises(ValueError, match="no batches of examples"):
        factorize.fisher(lambda p, x: jnp.float32(0), PARAMS, "fc", [])
    with pytest.raises(ValueError, match="inputs of conv are not finite"):
        factorize.second_moments(apply, PARAMS, "conv", [X[0].at[0].set(jnp.nan)])
    with pytest.raises(ValueError, match="fc is not multiplied as it stands"):
        factorize.second_moments(lambda p, x: x @ (2 * p["fc"]), PARAMS, "fc", [jnp.ones((4, 8))])
    with pytest.raises(ValueError, match="there is no metric for fc; there are metrics for conv"):
        factorize.svd("fc", 2, metric={"conv": jnp.ones(27)}).init(PARAMS)
    with pytest.raises(ValueError, match=r"the metric of fc has shape \(5,\); its kernel has 8 rows"):
        factorize.svd("fc", 2, metric={"fc": jnp.ones(5)}).init(PARAMS)
    with pytest.raises(ValueError, match="the metric of fc is not finite and positive"):
        factorize.svd("fc", 2, metric={"fc": jnp.ones(8).at[2].set(0.0)}).init(PARAMS)
