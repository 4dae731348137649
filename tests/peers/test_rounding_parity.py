"""Holds GPTQ, AdaRound and the range calibrators to readings of their papers in PyTorch, and to its observers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.numerics import adaround, affine
from jaxcompress.numerics.gptq import gptq
from jaxcompress.quantize import ranges

torch = pytest.importorskip("torch", reason="pip install 'jaxcompress[peers]'")
observer = pytest.importorskip("torch.ao.quantization.observer")


def gaussian(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def double(x) -> "torch.Tensor":
    return torch.tensor(np.asarray(x, np.float64))


def torch_gptq(weight, moment, scale, zero, bits: int, symmetric: bool, block: int) -> np.ndarray:
    """Reads algorithm 1 of arXiv:2210.17323 in float64, whose rows are our columns: W is (outputs, inputs)."""
    low, high = -(2 ** (bits - 1)) + symmetric, 2 ** (bits - 1) - 1
    rest, scale, zero = double(weight).T.clone(), double(scale).reshape(-1), double(zero).reshape(-1)
    hessian = 2 * double(moment)
    hessian += 0.01 * hessian.diagonal().mean() * torch.eye(len(hessian))
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    codes = torch.zeros_like(rest)
    for i in range(0, rest.shape[1], block):
        errors = torch.zeros(rest.shape[0], block, dtype=rest.dtype)
        for j in range(i, min(i + block, rest.shape[1])):
            codes[:, j] = torch.clamp(torch.round(rest[:, j] / scale) + zero, low, high)
            errors[:, j - i] = (rest[:, j] - (codes[:, j] - zero) * scale) / inverse[j, j]
            rest[:, j : i + block] -= errors[:, j - i, None] * inverse[j, j : i + block]
        width = min(block, rest.shape[1] - i)
        rest[:, i + block :] -= errors[:, :width] @ inverse[i : i + block, i + block :]
    return codes.T.numpy()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("inputs", "bits"), [(20, 4), (200, 3)])
def test_gptq_is_algorithm_1_of_the_paper(inputs, bits, symmetric):
    causes = gaussian(3 * inputs, inputs // 2, seed=1) @ gaussian(inputs // 2, inputs, seed=2)
    x, weight = causes + 0.5 * gaussian(3 * inputs, inputs, seed=3), gaussian(inputs, 6)
    scale, zero = affine.weight_range(jnp.asarray(weight), bits, (0,), symmetric)
    codes = gptq(jnp.asarray(weight), jnp.asarray(x.T @ x), scale, zero, bits, symmetric)
    np.testing.assert_array_equal(codes, torch_gptq(weight, x.T @ x, scale, zero, bits, symmetric, block=16))


def torch_objective(logits, weight, inputs, targets, scale, zero, bits, symmetric, beta, regularization):
    """Reads eqs. 22 to 25 of arXiv:2004.10568 for a convolution with relu, in PyTorch's layouts."""
    low, high = -(2 ** (bits - 1)) + symmetric, 2 ** (bits - 1) - 1
    h = torch.clamp(torch.sigmoid(logits) * 1.2 - 0.1, 0, 1)
    soft = scale * (torch.clamp(torch.floor(weight / scale) + h + zero, low, high) - zero)
    outputs = torch.relu(torch.nn.functional.conv2d(inputs, soft, padding=1))
    error = (outputs - targets).pow(2).sum(1).mean()
    return error + regularization * (1 - (2 * h - 1).abs().pow(beta)).sum()


def conv_relu(weight, inputs):
    return jax.nn.relu(
        jax.lax.conv_general_dilated(inputs, weight, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    )


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("beta", [20.0, 8.0, 2.0])
def test_the_objective_of_adaround_is_the_papers_in_value_and_gradient(beta, symmetric):
    weight, inputs, targets = gaussian(3, 3, 4, 5), gaussian(6, 7, 7, 4, seed=1), gaussian(6, 7, 7, 5, seed=2)
    logits = 2 * gaussian(3, 3, 4, 5, seed=3)
    scale, zero = affine.weight_range(jnp.asarray(0.7 * weight), 4, (0, 1, 2), symmetric)  # some weights are cut

    def ours(logits):
        return adaround.objective(
            *(logits, jnp.asarray(weight), conv_relu, jnp.asarray(inputs), jnp.asarray(targets)),
            *(scale, zero, 4, symmetric, beta, 0.1),
        )

    theirs = double(logits.transpose(3, 2, 0, 1)).requires_grad_()
    loss = torch_objective(
        *(theirs, double(weight.transpose(3, 2, 0, 1))),
        *(double(x.transpose(0, 3, 1, 2)) for x in (inputs, targets)),
        *(double(p).reshape(-1, 1, 1, 1) for p in (scale, zero)),
        *(4, symmetric, beta, 0.1),
    )
    loss.backward()
    value, gradient = jax.value_and_grad(ours)(jnp.asarray(logits))
    np.testing.assert_allclose(value, loss.item(), rtol=1e-5)
    expected = theirs.grad.numpy().transpose(2, 3, 1, 0)
    np.testing.assert_allclose(gradient, expected, atol=1e-5 * np.abs(expected).max())


def batches() -> list[np.ndarray]:
    return [gaussian(50, 3, seed=seed) * (1 + seed) for seed in range(4)]


@pytest.mark.parametrize(
    ("calibrator", "theirs"),
    [
        (ranges.min_max(), lambda: observer.MinMaxObserver()),
        (ranges.moving_average(0.9), lambda: observer.MovingAverageMinMaxObserver(averaging_constant=0.1)),
        (ranges.moving_average(0.5), lambda: observer.MovingAverageMinMaxObserver(averaging_constant=0.5)),
    ],
)
def test_extremes_are_those_of_the_observers(calibrator, theirs):
    state, observed = calibrator.init(), theirs()
    for batch in batches():
        state = calibrator.update(state, jnp.asarray(batch))
        observed(torch.tensor(batch))
    np.testing.assert_allclose(calibrator.limits(state), [observed.min_val, observed.max_val], rtol=1e-6)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_range_of_least_error_errs_no_more_than_that_of_the_histogram_observer(bits):
    values = np.random.default_rng(0).laplace(size=20_000).astype(np.float32)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    observed = observer.HistogramObserver(dtype=torch.qint8, quant_min=low, quant_max=high)
    observed(torch.tensor(values))
    scale, zero = observed.calculate_qparams()
    theirs = torch.fake_quantize_per_tensor_affine(torch.tensor(values), scale.item(), int(zero), low, high).numpy()
    calibrator = ranges.mse(bits)
    limits = calibrator.limits(calibrator.update(calibrator.init(), jnp.asarray(values)))
    scale, zero = affine.affine_range(*limits, bits, False)
    ours = affine.dequantize(affine.quantize(jnp.asarray(values), scale, zero, bits, False), scale, zero)
    assert np.square(ours - values).mean() <= 1.01 * np.square(theirs - values).mean()
