"""Checks what a quantized network is held to."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.quantize.objectives import check_loss, squared_error
from tests.graphs import chain, drawn

NET = chain(5, 4, 3)
X = [drawn(6, 5), drawn(2, 5)]


def test_the_squared_error_is_that_of_each_example():
    a, b = drawn(4, 2, 3), drawn(4, 2, 3, seed=1)
    expected = [np.mean((np.float64(x) - np.float64(y)) ** 2) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(squared_error(a, b), expected, rtol=1e-6)


def test_a_loss_of_each_example_is_taken_and_so_is_none():
    check_loss(*NET, X, None, None)
    check_loss(*NET, X, lambda z, y: z[:, 0] * y, [jnp.ones(6), jnp.ones(2)])


@pytest.mark.parametrize(
    ("batches", "loss", "labels", "message"),
    [
        ([], None, None, "there are no batches"),
        (X, squared_error, None, "a loss needs labels"),
        (X, None, [jnp.ones(6), jnp.ones(2)], "labels need a loss"),
        (X, squared_error, [jnp.ones((6, 3))], r"batches of \[6, 2\] examples have \[6\] labels"),
        (X, squared_error, [jnp.ones((6, 3)), jnp.ones((3, 3))], r"have \[6, 3\] labels"),
        (X, lambda z, y: jnp.mean(z), [jnp.ones(6), jnp.ones(2)], r"the loss of 6 examples has shape \(\)"),
    ],
)
def test_losses_and_labels_that_do_not_go_together_are_refused(batches, loss, labels, message):
    with pytest.raises(ValueError, match=message):
        check_loss(*NET, batches, loss, labels)
