"""Holds pruning, fake quantization and distillation to torch's own, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import densify
from jaxcompress.arrays import dense, pack
from jaxcompress.distill import kd
from jaxcompress.numerics import affine
from jaxcompress.prune import magnitude
from jaxcompress.quantize import codebook, weights

torch = pytest.importorskip("torch", reason="pip install 'jaxcompress[peers]'")
torch_prune = pytest.importorskip("torch.nn.utils.prune")

AMOUNTS = [0.0, 0.1, 0.3, 0.5, 0.9, 0.99, 1.0]


def gaussian(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def module(weight: np.ndarray):
    made = torch.nn.Module()
    made.weight = torch.nn.Parameter(torch.tensor(weight))
    return made


def torch_range(leaf) -> tuple:
    """Returns our scale and zero point of a fake-quantized leaf as flat torch tensors."""
    packed = pack(leaf)
    scale = torch.tensor(np.asarray(packed.scale).reshape(-1))
    return scale, torch.tensor(np.asarray(packed.zero_point).reshape(-1).astype(np.int32))


def gradient(leaf, upstream: np.ndarray) -> np.ndarray:
    slope = jax.grad(lambda leaf: jnp.sum(dense(leaf) * upstream), allow_int=True)(leaf)
    return np.asarray(slope.weight)


@pytest.mark.parametrize("amount", AMOUNTS)
def test_layer_wise_masks_are_those_of_l1_unstructured(amount):
    for shape in [(12, 7), (5, 3, 3, 2)]:
        weight = gaussian(*shape)
        theirs = torch_prune.l1_unstructured(module(weight), "weight", amount)
        ours = magnitude("w", amount).init({"w": jnp.asarray(weight)})["w"]
        np.testing.assert_array_equal(ours.mask, theirs.weight_mask.numpy().astype(bool))
        np.testing.assert_array_equal(dense(ours), theirs.weight.detach().numpy())


@pytest.mark.parametrize("amount", AMOUNTS)
def test_global_masks_are_those_of_global_unstructured(amount):
    arrays = {"a": gaussian(12, 7), "b": 3 * gaussian(40, seed=1), "c": 0.1 * gaussian(3, 3, 2, 4, seed=2)}
    modules = {name: module(weight) for name, weight in arrays.items()}
    torch_prune.global_unstructured(
        [(made, "weight") for made in modules.values()], pruning_method=torch_prune.L1Unstructured, amount=amount
    )
    params = {name: jnp.asarray(weight) for name, weight in arrays.items()}
    ours = magnitude("[abc]", amount, scope="global").init(params)
    for name, made in modules.items():
        np.testing.assert_array_equal(ours[name].mask, made.weight_mask.numpy().astype(bool))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", range(2, 9))
def test_per_tensor_rounding_is_fake_quantize_per_tensor_affine(bits, symmetric):
    weight, upstream = gaussian(20, 6) + np.float32(0.2), gaussian(20, 6, seed=1)
    leaf = weights("w", bits, granularity="tensor", symmetric=symmetric).init({"w": jnp.asarray(weight)})["w"]
    (scale, zero), theirs = torch_range(leaf), torch.tensor(weight, requires_grad=True)
    low, high = -(2 ** (bits - 1)) + symmetric, 2 ** (bits - 1) - 1
    rounded = torch.fake_quantize_per_tensor_affine(theirs, scale[0], zero[0], low, high)
    rounded.backward(torch.tensor(upstream))
    np.testing.assert_allclose(dense(leaf), rounded.detach().numpy(), rtol=1e-6)
    inside = theirs.grad.numpy() != 0  # torch cuts the gradient where a code fell outside; a maximum may round there
    assert inside.mean() > 0.95
    np.testing.assert_array_equal(gradient(leaf, upstream)[inside], theirs.grad.numpy()[inside])


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "axis"), [(2, -1), (4, -1), (8, -1), (8, -2), (4, -3)])
def test_per_channel_rounding_is_fake_quantize_per_channel_affine(bits, axis, symmetric):
    weight, upstream = gaussian(5, 6, 7) + np.float32(0.2), gaussian(5, 6, 7, seed=1)
    leaf = weights("w", bits, channel_axis=axis, symmetric=symmetric).init({"w": jnp.asarray(weight)})["w"]
    (scale, zero), theirs = torch_range(leaf), torch.tensor(weight, requires_grad=True)
    low, high = -(2 ** (bits - 1)) + symmetric, 2 ** (bits - 1) - 1
    rounded = torch.fake_quantize_per_channel_affine(theirs, scale, zero, axis % 3, low, high)
    rounded.backward(torch.tensor(upstream))
    np.testing.assert_allclose(dense(leaf), rounded.detach().numpy(), rtol=1e-6)
    inside = theirs.grad.numpy() != 0
    assert inside.mean() > 0.9
    np.testing.assert_array_equal(gradient(leaf, upstream)[inside], theirs.grad.numpy()[inside])


def test_ties_round_half_to_even_as_in_torch():
    halves, scale, zero = np.arange(-40, 41, dtype=np.float32) / 16, 0.125, 3  # every other one a tie, exactly
    theirs = torch.fake_quantize_per_tensor_affine(torch.tensor(halves), scale, zero, -128, 127)
    codes = affine.quantize(jnp.asarray(halves), jnp.float32(scale), jnp.float32(zero), 8, False)
    np.testing.assert_array_equal(affine.dequantize(codes, jnp.float32(scale), jnp.float32(zero)), theirs.numpy())


def test_the_gradient_of_a_codebook_is_that_of_an_embedding():
    upstream = gaussian(9, 7, seed=1)
    params = codebook("w", 2).init({"w": jnp.asarray(gaussian(9, 7))})
    ours = jax.grad(lambda p: jnp.sum(densify(p)["w"] * upstream), allow_int=True)(params)["w"].centroids
    table = torch.tensor(np.asarray(params["w"].centroids)[:, None], requires_grad=True)
    looked_up = torch.nn.functional.embedding(torch.tensor(np.asarray(params["w"].codes)), table)[..., 0]
    looked_up.backward(torch.tensor(upstream))
    np.testing.assert_allclose(ours, table.grad.numpy()[:, 0], rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_distillation_is_kl_div_in_value_and_gradient(temperature):
    student, teacher = 3 * gaussian(6, 10), 3 * gaussian(6, 10, seed=1)
    theirs = torch.tensor(student, dtype=torch.float64, requires_grad=True)
    divergence = torch.nn.functional.kl_div(
        torch.log_softmax(theirs / temperature, -1),
        torch.softmax(torch.tensor(teacher, dtype=torch.float64) / temperature, -1),
        reduction="none",
    )
    loss = temperature**2 * divergence.sum(-1)
    loss.sum().backward()
    value, pullback = jax.vjp(lambda s: kd(s, jnp.asarray(teacher), temperature), jnp.asarray(student))
    np.testing.assert_allclose(value, loss.detach().numpy(), rtol=1e-4)
    np.testing.assert_allclose(pullback(jnp.ones(6))[0], theirs.grad.numpy(), atol=1e-5 * temperature)
