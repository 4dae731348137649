"""Holds learned, binary and ternary quantizers to the papers' formulas in float64, written as torch autograd functions.

Values that lie within float32's rounding of a jump are left out of a comparison: there either side is right.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.numerics import binary, learned

torch = pytest.importorskip("torch", reason="pip install 'jaxcompress[peers]'")

BITS = pytest.mark.parametrize("bits", range(2, 9))
ALL = (-2, -1)


def gaussian(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def away_from_jumps(values: np.ndarray, step: float, offset: float = 0.0) -> np.ndarray:
    """Moves values that lie next to the middle or the ends of a step a little towards a safe place."""
    scaled = (values.astype(np.float64) - offset) / step
    near = np.abs(2 * scaled - np.round(2 * scaled)) < 1e-3
    return np.where(near, values + np.float32(0.01 * step), values).astype(np.float32)


def double(array, requires_grad: bool = True):
    return torch.tensor(np.asarray(array, np.float64), requires_grad=requires_grad)


def compare(ours, theirs, arguments: list[np.ndarray | float], seed: int = 9, rtol: float = 2e-5) -> None:
    """Compares value and pullback of a random cotangent of two functions of the same arguments."""
    doubles = [double(np.float32(a)) for a in arguments]
    expected = theirs(*doubles)
    upstream = gaussian(*expected.shape, seed=seed)
    expected.backward(double(upstream, False))
    value, pullback = jax.vjp(ours, *[jnp.float32(a) for a in arguments])
    np.testing.assert_allclose(value, expected.detach().numpy(), rtol=rtol, atol=1e-6)
    for got, want in zip(pullback(jnp.asarray(upstream)), doubles, strict=True):
        np.testing.assert_allclose(got, want.grad.numpy(), rtol=rtol, atol=2e-6)


class RoundClipped(torch.autograd.Function):
    """LSQ, eqs. 1 to 5, with the offset of LSQ+; the step's and the offset's gradients times `scale`."""

    @staticmethod
    def forward(ctx, values, step, offset, low, high, scale):
        scaled = (values - offset) / step
        codes = torch.round(torch.clamp(scaled, low, high))
        ctx.save_for_backward(scaled, step, offset)
        ctx.limits = low, high, scale
        return codes * step + offset

    @staticmethod
    def backward(ctx, upstream):
        scaled, step, offset = ctx.saved_tensors
        low, high, scale = ctx.limits
        below, above = scaled <= low, scaled >= high
        inside = ~(below | above)
        slope = torch.zeros_like(scaled)
        slope[below], slope[above] = low, high
        slope[inside] = (torch.round(scaled) - scaled)[inside]
        to_step = (upstream * slope * scale).sum_to_size(step.shape)
        to_offset = (upstream * ~inside * scale).sum_to_size(offset.shape)
        return upstream * inside, to_step, to_offset, None, None, None


class ClipPact(torch.autograd.Function):
    """PACT, eqs. 1 to 3."""

    @staticmethod
    def forward(ctx, values, alpha, levels):
        ctx.save_for_backward(values, alpha)
        clipped = 0.5 * (values.abs() - (values - alpha).abs() + alpha)
        return torch.round(clipped * levels / alpha) * alpha / levels

    @staticmethod
    def backward(ctx, upstream):
        values, alpha = ctx.saved_tensors
        return upstream * ((values >= 0) & (values < alpha)), (upstream * (values >= alpha)).sum(), None


class QuantizeK(torch.autograd.Function):
    """DoReFa's rounding of [0, 1] to k bits, straight through."""

    @staticmethod
    def forward(ctx, values, levels):
        return torch.round(values * levels) / levels

    @staticmethod
    def backward(ctx, upstream):
        return upstream, None


class SignOfXnor(torch.autograd.Function):
    """XNOR-Net's weights with the gradient of section 3.1."""

    @staticmethod
    def forward(ctx, weight):
        ctx.save_for_backward(weight)
        return weight.abs().mean(0, keepdim=True) * torch.where(weight >= 0, 1.0, -1.0)

    @staticmethod
    def backward(ctx, upstream):
        (weight,) = ctx.saved_tensors
        alpha = weight.abs().mean(0, keepdim=True)
        return upstream * (1 / weight.shape[0] + alpha * (weight.abs() <= 1))


class Twn(torch.autograd.Function):
    """TWN's threshold and scale, straight through."""

    @staticmethod
    def forward(ctx, weight):
        beyond = weight.abs() > 0.7 * weight.abs().mean()
        return weight.abs()[beyond].mean() * weight.sign() * beyond

    @staticmethod
    def backward(ctx, upstream):
        return upstream


class Ttq(torch.autograd.Function):
    """TTQ, with the gradients of eqs. 7 and 8."""

    @staticmethod
    def forward(ctx, weight, positive, negative):
        delta = 0.05 * weight.abs().max()
        ctx.save_for_backward(weight > delta, weight < -delta, positive, negative)
        return positive * (weight > delta) - negative * (weight < -delta)

    @staticmethod
    def backward(ctx, upstream):
        above, below, positive, negative = ctx.saved_tensors
        factor = torch.ones_like(upstream)
        factor[above], factor[below] = positive, negative
        return upstream * factor, (upstream * above).sum(), -(upstream * below).sum()


@BITS
@pytest.mark.parametrize("signed", [True, False])
def test_lsq(bits, signed):
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    values = gaussian(30, 20)
    step = np.float32(2 * np.abs(values.astype(np.float64)).mean() / np.sqrt(high))
    np.testing.assert_allclose(learned.lsq_step(jnp.asarray(values), bits, signed), [[step]], rtol=1e-6)
    scale = 1 / np.sqrt(values.size * high)
    compare(
        lambda v, s: learned.lsq(v, s, bits, signed),
        lambda v, s: RoundClipped.apply(v, s, torch.zeros((), dtype=torch.float64), low, high, scale),
        [away_from_jumps(values, step), step],
    )


@BITS
def test_lsq_with_a_step_per_channel(bits):
    low, high, values = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, gaussian(30, 20)
    steps = np.float32(2 * np.abs(values).mean(0, keepdims=True) / np.sqrt(high))
    scale = 1 / np.sqrt(30 * high)
    values = np.concatenate([away_from_jumps(values[:, i : i + 1], steps[0, i]) for i in range(20)], 1)
    compare(
        lambda v, s: learned.lsq(v, s, bits),
        lambda v, s: RoundClipped.apply(v, s, torch.zeros((), dtype=torch.float64), low, high, scale),
        [values, steps],
    )


@BITS
def test_lsq_plus(bits):
    values, high = gaussian(30, 20), 2**bits - 1
    step, offset = np.float32(3 / high), np.float32(-0.8)
    scale = 1 / np.sqrt(values.size * high)
    compare(
        lambda v, s, b: learned.lsq_plus(v, s, b, bits),
        lambda v, s, b: RoundClipped.apply(v, s, b, 0, high, scale),
        [away_from_jumps(values, step, offset), step, offset],
    )


@BITS
def test_pact(bits):
    alpha, levels = np.float32(1.3), 2**bits - 1
    values = away_from_jumps(gaussian(30, 20), alpha / levels)
    compare(lambda x, a: learned.pact(x, a, bits), lambda x, a: ClipPact.apply(x, a, levels), [values, alpha])


@BITS
def test_dorefa_activations(bits):
    levels = 2**bits - 1
    values = away_from_jumps(gaussian(30, 20), 1 / levels)
    compare(
        lambda x: learned.dorefa_activations(x, bits),
        lambda x: QuantizeK.apply(torch.clamp(x, 0, 1), levels),
        [values],
    )


@BITS
def test_dorefa_weights(bits):
    levels, weight = 2**bits - 1, gaussian(30, 20)

    def theirs(w):
        bounded = torch.tanh(w)
        return 2 * QuantizeK.apply(bounded / (2 * bounded.abs().max()) + 0.5, levels) - 1

    bounded = np.tanh(weight.astype(np.float64))
    place = levels * (bounded / (2 * np.abs(bounded).max()) + 0.5)
    weight = np.where(np.abs(np.abs(place - np.floor(place)) - 0.5) < 1e-3, weight + np.float32(0.02), weight)
    compare(lambda w: learned.dorefa_weights(w, bits, ALL), theirs, [weight])


def test_xnor():
    compare(lambda w: binary.xnor(w, (-2,)), SignOfXnor.apply, [gaussian(30, 20)])


def test_twn():
    compare(lambda w: binary.twn(w, 0.7, ALL), Twn.apply, [gaussian(30, 20)])


def test_ttq():
    arguments = [gaussian(30, 20), np.float32(0.9), np.float32(0.4)]
    compare(lambda w, p, n: binary.ttq(w, p, n, 0.05, ALL), Ttq.apply, arguments)
