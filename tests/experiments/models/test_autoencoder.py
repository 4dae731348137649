"""The autoencoder reconstructs inputs of any width through the same hidden layers."""

import jax.numpy as jnp
import numpy as np

from experiments.models import AutoEncoder
from tests.experiments.models import draws


def test_output_is_linear_and_as_wide_as_the_input():
    model, x = AutoEncoder((4, 2, 4), norm=False), jnp.ones((3, 6))
    params = draws.variables(model, (6,))["params"]
    shapes = [params[f"fc{i}"]["kernel"].shape for i in (1, 2, 3, 4)]
    assert shapes == [(6, 4), (4, 2), (2, 4), (4, 6)]
    below = {**params, "fc4": {**params["fc4"], "bias": params["fc4"]["bias"] - 50.0}}
    np.testing.assert_allclose(model.apply({"params": below}, x), model.apply({"params": params}, x) - 50.0, rtol=1e-5)


def test_bottleneck_is_rectified():
    model, x = AutoEncoder((4, 2, 4), norm=False), jnp.ones((3, 6))
    params = draws.variables(model, (6,))["params"]
    shut = {**params, "fc2": {**params["fc2"], "bias": jnp.full(2, -50.0)}}
    output = model.apply({"params": shut}, x)
    hidden = np.maximum(np.float64(params["fc3"]["bias"]), 0)  # of zeros at the bottleneck, biases alone are left
    expected = hidden @ np.float64(params["fc4"]["kernel"]) + np.float64(params["fc4"]["bias"])
    np.testing.assert_allclose(output, np.tile(expected, (3, 1)), rtol=1e-5, atol=1e-6)
