"""Checks refit kernels against least squares in float64 on the layers' inputs, written out in NumPy and PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

import jaxcompress as jc
from jaxcompress.prune import importance, reconstruct, remove, select
from tests.prune.coupled import drawn, perceptron, two_layers, variables_of

NUMBERS = ("NHWC", "HWIO", "NHWC")


def batches(*shape, count=3):
    return [drawn(*shape, seed=70 + i) for i in range(count)]


def every(params, apply, given, kept):
    """Refits a model whose groups are known by index."""
    channels = jc.channels(apply, params, given[0])
    return reconstruct(apply, params, channels, kept, given), channels


def double(x):
    return np.asarray(x, np.float64)


def test_a_dense_layer_is_refit_by_least_squares():
    params = {"a": drawn(6, 5), "b": drawn(5, seed=1), "c": drawn(5, 3, seed=2)}
    given = batches(20, 6)
    stays = np.array([True, False, True, True, False])
    refit, _ = every(params, perceptron, given, {"a:1": stays})
    hidden = np.maximum(double(np.concatenate(given)) @ double(params["a"]) + double(params["b"]), 0)
    wanted = np.linalg.lstsq(hidden[:, stays], hidden @ double(params["c"]))[0]
    np.testing.assert_allclose(refit["c"][stays], wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(refit["c"][~stays], 0)
    np.testing.assert_array_equal(refit["a"], jnp.where(stays[None], params["a"], 0))
    np.testing.assert_array_equal(refit["b"], jnp.where(stays, params["b"], 0))


def test_a_later_layer_sees_the_refit_ones_and_aims_at_the_whole_model():
    params = {"a": drawn(4, 5), "b": drawn(5, 6, seed=1), "c": drawn(6, 2, seed=2)}
    given = batches(20, 4)
    first, second = np.array([1, 1, 0, 1, 0], bool), np.array([1, 0, 1, 1, 1, 0], bool)
    refit, _ = every(params, two_layers, given, {"a:1": first, "b:1": second})
    a, b, c, x = (double(v) for v in (params["a"], params["b"], params["c"], np.concatenate(given)))
    one = np.maximum(x @ a, 0)
    new_b = np.linalg.lstsq(one[:, first], one @ b)[0]
    two = np.maximum(one[:, first] @ new_b, 0)[:, second]
    wanted = np.linalg.lstsq(two, np.maximum(one @ b, 0) @ c)[0]
    np.testing.assert_allclose(refit["b"][first][:, second], new_b[:, second], rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(refit["b"][:, ~second], 0)
    np.testing.assert_allclose(refit["c"][second], wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_is_refit_on_its_patches(groups):
    torch = pytest.importorskip("torch")

    def apply(params, x):
        x = jax.nn.relu(lax.conv_general_dilated(x, params["a"], (1, 1), "SAME", dimension_numbers=NUMBERS))
        options = {"dimension_numbers": NUMBERS, "rhs_dilation": (1, 2), "feature_group_count": groups}
        return lax.conv_general_dilated(x, params["b"], (2, 1), ((1, 1), (0, 2)), **options)

    params = {"a": drawn(3, 3, 2, 6), "b": drawn(3, 2, 6 // groups, 4, seed=1)}
    given = batches(3, 7, 6, 2)
    stays = np.array([True, False, True, True, False, True][: 6 // groups])
    refit, channels = every(params, apply, given, {"a:3": stays})
    assert channels.groups[0].channels == 6 // groups

    x = torch.tensor(double(np.concatenate(given))).permute(0, 3, 1, 2)
    a, b = (torch.tensor(double(params[name])).permute(3, 2, 0, 1) for name in "ab")
    hidden = torch.relu(torch.conv2d(x, a, padding=1))
    padded = torch.nn.functional.pad(hidden, (0, 2, 1, 1))
    out = torch.conv2d(padded, b, stride=(2, 1), dilation=(1, 2), groups=groups)
    for g in range(groups):
        of = slice(g * 6 // groups, (g + 1) * 6 // groups)
        taken = torch.nn.functional.unfold(padded[:, of][:, stays], (3, 2), stride=(2, 1), dilation=(1, 2))
        rows = taken.permute(0, 2, 1).reshape(-1, 6 * int(stays.sum()))
        outs = slice(g * 4 // groups, (g + 1) * 4 // groups)
        targets = out[:, outs].permute(0, 2, 3, 1).reshape(len(rows), -1)
        wanted = np.linalg.lstsq(rows.numpy(), targets.numpy())[0]  # channel by place of the window
        wanted = wanted.reshape(int(stays.sum()), 3, 2, -1).transpose(1, 2, 0, 3)
        np.testing.assert_allclose(refit["b"][:, :, stays][..., outs], wanted, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(refit["b"][:, :, ~stays], 0)


def test_a_copied_channel_is_not_missed():
    a = drawn(6, 4)
    a = jnp.concatenate([a, a[:, :2]], axis=1)
    params = {"a": a, "b": jnp.zeros(6), "c": drawn(6, 3, seed=2)}
    given = batches(20, 6)
    kept = {"a:1": np.array([False, True, True, True, True, True])}
    refit, channels = every(params, perceptron, given, kept)
    np.testing.assert_allclose(perceptron(refit, given[0]), perceptron(params, given[0]), rtol=1e-4, atol=1e-4)
    # The other copy shares what was the weight of both.
    np.testing.assert_allclose(refit["c"][4], params["c"][0] + params["c"][4], rtol=1e-3, atol=1e-4)
    small = remove(refit, channels, kept)
    np.testing.assert_allclose(jc.lift(perceptron)(small, given[0]), perceptron(params, given[0]), rtol=1e-4, atol=1e-4)


class Attention(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.MultiHeadDotProductAttention(num_heads=4, qkv_features=12, name="attention")(x)


def test_heads_are_made_up_for():
    module, given = Attention(), batches(4, 5, 6)
    params = variables_of(module, given[0])
    channels = jc.channels(module.apply, params, given[0])
    scores = importance.l2(params, channels, members=".*/out/kernel:0")
    kept = select(scores, channels, 0.5)
    refit = reconstruct(module.apply, params, channels, kept, given)
    out = refit["params"]["attention"]["out"]["kernel"]
    assert out.shape == (4, 3, 6)
    (stays,) = (mask for mask in kept.values() if len(mask) == 4)

    # What each head gives, from attention with the unit matrix in place of the last kernel.
    def heads(x):
        one = jnp.eye(12).reshape(4, 3, 12)
        wide = nn.MultiHeadDotProductAttention(num_heads=4, qkv_features=12, out_features=12, use_bias=False)
        tree = {n: dict(params["params"]["attention"][n]) for n in ("query", "key", "value")}
        biased = wide.clone(use_bias=True)
        return biased.apply({"params": tree | {"out": {"kernel": one, "bias": jnp.zeros(12)}}}, x)

    rows = double(np.concatenate([heads(x).reshape(-1, 12) for x in given]))
    kernel = double(params["params"]["attention"]["out"]["kernel"]).reshape(12, 6)
    entries = np.repeat(stays, 3)
    wanted = np.linalg.lstsq(rows[:, entries], rows @ kernel)[0]
    # Values nearly proportional between places make this ill-conditioned: compare what the layer gives.
    np.testing.assert_allclose(
        rows[:, entries] @ double(out).reshape(12, 6)[entries], rows[:, entries] @ wanted, rtol=1e-2, atol=1e-3
    )


def test_a_kernel_that_is_not_taken_as_it_stands_keeps_its_weights():
    def apply(params, x):
        return jax.nn.relu(x @ params["a"]) @ params["b"].T

    params = {"a": drawn(3, 4), "b": drawn(2, 4, seed=1)}
    stays = np.array([True, False, True, True])
    refit, _ = every(params, apply, batches(8, 3), {"a:1": stays})
    np.testing.assert_array_equal(refit["b"], jnp.where(stays[None], params["b"], 0))


def test_without_removed_channels_nothing_changes():
    params = {"a": drawn(6, 5), "b": drawn(5, seed=1), "c": drawn(5, 3, seed=2)}
    refit, _ = every(params, perceptron, batches(4, 6), {"a:1": np.ones(5, bool)})
    assert all(jnp.array_equal(refit[name], params[name]) for name in params)


def test_bad_input_is_refused():
    params = {"a": drawn(6, 5), "b": drawn(5, seed=1), "c": drawn(5, 3, seed=2)}
    channels = jc.channels(perceptron, params, jnp.ones((1, 6)))
    stays = np.arange(5) > 0
    with pytest.raises(ValueError, match="there are no batches of inputs"):
        reconstruct(perceptron, params, channels, {"a:1": stays}, [])
    with pytest.raises(ValueError, match="the inputs or outputs of c are not finite"):
        reconstruct(perceptron, params, channels, {"a:1": stays}, [jnp.full((1, 6), jnp.nan)])
    with pytest.raises(ValueError, match="there is no group 'z:1'"):
        reconstruct(perceptron, params, channels, {"z:1": stays}, [jnp.ones((1, 6))])
