"""Holds block reconstruction to its paper (arXiv:2102.05426), read in PyTorch with its autograd in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.interpreters.graph import INPUT
from jaxcompress.numerics import adaround, affine
from jaxcompress.quantize.activations import on_grid
from jaxcompress.quantize.blocks import blocks
from jaxcompress.quantize.reconstruction import block_of_kernels, fisher
from tests.graphs import drawn, inputs, residual
from tests.nets import grid

torch = pytest.importorskip("torch", reason="pip install 'jaxcompress[peers]'")
functional = torch.nn.functional

GRAPH, WEIGHTS = residual()
X, LABELS = inputs(GRAPH, 10), np.arange(10) % 3
BLOCK = blocks(GRAPH, WEIGHTS)[2]  # pool -> sum


def double(x, channels_first: bool = False):
    exact = torch.tensor(np.asarray(x, np.float64))
    return exact.permute(0, 3, 1, 2) if channels_first else exact


def kernel_of(name: str):
    return double(WEIGHTS[name]["kernel"]).permute(3, 2, 0, 1)


def block(x, kernels, rounds=lambda name, values: values):
    """The residual block on channels first; `rounds` is applied to the tensors inside."""
    biases = {name: double(WEIGHTS[name]["bias"]) for name in kernels}
    first = rounds("first", torch.relu(functional.conv2d(x, kernels["first"], biases["first"], padding=1)))
    second = rounds("second", functional.conv2d(first, kernels["second"], biases["second"], padding=1))
    short = rounds("short", functional.conv2d(x, kernels["short"], biases["short"]))
    return torch.relu(second + short)


def test_fisher_weights_are_the_squared_gradients_of_the_task_loss():
    stem = torch.relu(functional.conv2d(double(X, True), kernel_of("stem"), double(WEIGHTS["stem"]["bias"]), padding=1))
    made = block(functional.max_pool2d(stem, 2), {name: kernel_of(name) for name in BLOCK.layers}).requires_grad_()
    logits = made.mean((2, 3)) @ double(WEIGHTS["head"]["kernel"]) + double(WEIGHTS["head"]["bias"])
    functional.cross_entropy(logits, torch.tensor(LABELS), reduction="sum").backward()
    squares = (made.grad**2 / (made.grad**2).mean()).permute(0, 2, 3, 1).numpy()

    def loss(outputs, labels):
        return -jnp.take_along_axis(jax.nn.log_softmax(outputs), labels[:, None], axis=1)[:, 0]

    parts = blocks(GRAPH, WEIGHTS)
    outputs = X
    for part in parts[:3]:
        outputs = part.graph(WEIGHTS, outputs)
    np.testing.assert_allclose(outputs, made.detach().permute(0, 2, 3, 1).numpy(), atol=1e-5)
    labels = jnp.asarray(LABELS)
    found = fisher(parts[3:], WEIGHTS, [outputs[:4], outputs[4:]], loss, [labels[:4], labels[4:]])
    np.testing.assert_allclose(found, squares, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_objective_of_a_block_is_the_papers_in_value_and_gradient(weighted):
    # Grids are fine, so that a value next to the middle of a step counts for nothing, and scales cut some weights.
    grids = {INPUT: grid(1.0), "pool": grid(2.0**-9, -128), "first": grid(2.0**-9, -128)}
    grids |= {"second": grid(2.0**-8), "short": grid(2.0**-8), "sum": grid(1.0)}
    x = on_grid(jnp.abs(drawn(6, 4, 4, 4, scale=0.2)), grids["pool"])
    targets, importance = drawn(6, 4, 4, 4, seed=5), jnp.abs(drawn(6, 4, 4, 4, seed=6))
    kernels = {name: WEIGHTS[name]["kernel"] for name in BLOCK.layers}
    scales = {name: affine.weight_range(0.7 * kernel, 3, (0, 1, 2), True)[0] for name, kernel in kernels.items()}
    logits = {name: 2 * drawn(*kernel.shape, seed=9 + i) for i, (name, kernel) in enumerate(kernels.items())}

    def ours(logits):
        zeros, bits = jax.tree.map(jnp.zeros_like, scales), dict.fromkeys(kernels, 3)
        apply = block_of_kernels(BLOCK, WEIGHTS, grids)
        given = (x, targets, scales, zeros, bits, True, 4.0, 0.1, importance if weighted else None)
        return adaround.objective(logits, kernels, apply, *given)

    theirs = {name: double(leaf).permute(3, 2, 0, 1).contiguous().requires_grad_() for name, leaf in logits.items()}
    h = {name: torch.clamp(torch.sigmoid(leaf) * 1.2 - 0.1, 0, 1) for name, leaf in theirs.items()}

    def soft(name):
        scale = double(scales[name]).permute(3, 2, 0, 1)
        return scale * torch.clamp(torch.floor(kernel_of(name) / scale) + h[name], -3, 3)

    def rounds(name, values):
        """Rounds to a grid, with the straight-through estimator inside its range."""
        step, zero = float(grids[name].scale), grids[name].zero_point
        inside = torch.clamp(values, (-128 - zero) * step, (127 - zero) * step)
        return inside + (torch.round(inside / step) * step - inside).detach()

    error = (block(double(x, True), {name: soft(name) for name in kernels}, rounds) - double(targets, True)).pow(2)
    error = (error * double(importance, True) if weighted else error).sum(1).mean()
    loss = error + 0.1 * sum((1 - (2 * leaf - 1).abs().pow(4)).sum() for leaf in h.values())
    loss.backward()
    value, gradient = jax.value_and_grad(ours)(logits)
    np.testing.assert_allclose(value, loss.item(), rtol=1e-4)
    for name in kernels:
        expected = theirs[name].grad.permute(2, 3, 1, 0).numpy()
        np.testing.assert_allclose(gradient[name], expected, atol=2e-3 * np.abs(expected).max(), err_msg=name)
