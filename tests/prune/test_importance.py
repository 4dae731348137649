"""Checks the scores of channels by hand, in NumPy, and against PyTorch's gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from experiments import models
from jaxcompress.arrays import Masked
from jaxcompress.prune import importance
from tests.prune.coupled import drawn, perceptron, perceptron_of, two_groups, variables_of

# Channel 0: column (1, 2) and row (3,). Channel 1: (-2, 0) and (0,). Channel 2: (0, 4) and (-1,).
PARAMS, CHANNELS = perceptron_of([[1, -2, 0], [2, 0, 4]], [9, 9, 9], [[3], [0], [-1]])


def close(scores, wanted, name="a:1", rtol=1e-6):
    assert list(scores) == [name] and scores[name].dtype == jnp.float32
    np.testing.assert_allclose(scores[name], wanted, rtol=rtol)


def test_sums_of_magnitudes_by_hand():
    close(importance.l1(PARAMS, CHANNELS), [(3 + 3) / 2, (2 + 0) / 2, (4 + 1) / 2])
    close(importance.l1(PARAMS, CHANNELS, members="a:1"), [3, 2, 4])
    close(importance.l1(PARAMS, CHANNELS, members="b:0"), [9, 9, 9])


def test_norms_by_hand():
    close(importance.l2(PARAMS, CHANNELS), np.sqrt([(5 + 9) / 2, (4 + 0) / 2, (16 + 1) / 2]))
    close(importance.l2(PARAMS, CHANNELS, members="c:0"), [3, 0, 1])


def test_distances_by_hand():
    # Between the columns (1, 2), (-2, 0), (0, 4): squares 13, 5, 20; between the rows 3, 0, -1: 3, 4, 1.
    columns = np.sqrt([[0, 13, 5], [13, 0, 20], [5, 20, 0]]).sum(1)
    close(importance.fpgm(PARAMS, CHANNELS, members="a:1"), columns)
    close(importance.fpgm(PARAMS, CHANNELS), (columns + [7, 4, 5]) / 2)


def test_the_filter_amid_the_others_is_the_least_by_distance():
    filters = drawn(5, 6)
    params, channels = perceptron_of(np.concatenate([filters, filters.mean(0)[None]]).T, np.ones(6), np.ones((6, 1)))
    scores = importance.fpgm(params, channels, members="a:1")
    assert int(jnp.argmin(scores["a:1"])) == 5


def test_a_flattened_channel_is_all_of_its_inputs():
    model = models.LeNet5()
    x = jnp.zeros((1, 28, 28, 1))
    params = variables_of(model, x)
    channels = jc.channels(model.apply, params, x)
    scores = importance.l1(params, channels, members=r".*fc1/kernel:0")
    kernel = np.abs(np.asarray(params["params"]["fc1"]["kernel"]))  # rows are places by channels
    close(scores, kernel.reshape(16, 50, -1).sum((0, 2)), "params/conv2/bias:0", rtol=1e-5)


def test_the_filters_of_a_convolution_have_the_norm_of_the_paper():
    model = models.ResNet8(norm=True, width=4)
    x = jnp.zeros((1, 8, 8, 3))
    variables = variables_of(model, x)
    channels = jc.channels(model.apply, variables, x)
    scores = importance.l1(variables, channels, members=r".*block1/conv1/kernel:3")
    kernel = np.abs(np.asarray(variables["params"]["block1"]["conv1"]["kernel"]))
    (name,) = scores
    np.testing.assert_allclose(scores[name], kernel.sum((0, 1, 2)), rtol=1e-5)
    # A stage has two filters: the stem's and the block's.
    stage = importance.l1(variables, channels, members=r".*(stem|block1/conv2)/kernel:3")
    both = [variables["params"]["stem"], variables["params"]["block1"]["conv2"]]
    sums = [np.abs(np.asarray(layer["kernel"])).sum((0, 1, 2)) for layer in both]
    np.testing.assert_allclose(*stage.values(), (sums[0] + sums[1]) / 2, rtol=1e-5)


def test_scales_of_norms_by_hand():
    model = models.DSCNN(width=4, blocks=1, norm=True)
    x = jnp.zeros((1, 49, 10, 1))
    variables = variables_of(model, x)
    params = variables["params"]
    for i, norm in enumerate([params["stem_norm"], params["block1"]["depthwise_norm"]]):
        norm["scale"] = jnp.asarray([1.0, -2.0, 0.0, 4.0]) * (i + 1)
    channels = jc.channels(model.apply, variables, x)
    scores = importance.norm_scale(variables, channels)
    stem = next(g.name for g in channels.groups if any(m.path == "params/stem_norm/scale" for m in g.members))
    np.testing.assert_allclose(scores[stem], [1.5, 3.0, 0.0, 6.0])  # the depthwise layer goes with the stem


def test_vectors_do_not_count_by_default():
    moved = PARAMS | {"b": PARAMS["b"] + 7}
    for score in (importance.l1, importance.l2, importance.fpgm):
        np.testing.assert_array_equal(score(PARAMS, CHANNELS)["a:1"], score(moved, CHANNELS)["a:1"])
    model = models.DSCNN(width=4, blocks=1, norm=True)
    x = jnp.zeros((1, 49, 10, 1))
    variables = variables_of(model, x)
    channels = jc.channels(model.apply, variables, x)
    moved = variables | {"batch_stats": jax.tree.map(lambda leaf: leaf + 7, variables["batch_stats"])}
    for a, b in zip(*(importance.l2(v, channels).values() for v in (variables, moved)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_masked_weight_counts_as_what_it_means():
    mask = jnp.asarray([[True, False, True], [True, True, True]])
    scores = importance.l1(PARAMS | {"a": Masked(PARAMS["a"], mask)}, CHANNELS, members="a:1")
    close(scores, [3, 0, 4])


# Taylor expansion


def loss(params, batch):
    x, y = batch
    return jnp.mean(jnp.square(perceptron(params, x) - y))


def batches(count=3):
    return [(drawn(4, 2, seed=i), drawn(4, 1, seed=50 + i)) for i in range(count)]


def test_the_first_order_by_hand():
    # The loss is linear in the weights, so that without a channel it falls by exactly the sum of its products.
    params, channels = perceptron_of([[1.0, 2.0]], [0.5, -1.0], [[3.0], [4.0]])
    linear = lambda p, x: x * (2 * p["a"].sum() + 5 * p["b"].sum() - p["c"].sum())
    scores = importance.taylor(linear, params, channels, [jnp.float32(1), jnp.float32(3)])
    first, second = 2 * 1 - 3, 2 * 2 - 4
    close(scores, [first**2 * (1 + 9) / 2, second**2 * (1 + 9) / 2])
    scores = importance.taylor(linear, params, channels, [jnp.float32(1)], members="[abc]:.")
    close(scores, [(first + 2.5) ** 2, (second - 5) ** 2])


def test_the_first_order_agrees_with_torch():
    torch = pytest.importorskip("torch")
    params = {"a": drawn(2, 3), "b": drawn(3, seed=1), "c": drawn(3, 1, seed=2)}
    found = importance.taylor(loss, params, CHANNELS, batches(), members="(a|b):.")
    wanted = np.zeros(3)
    for x, y in batches():
        a, b, c = (torch.tensor(np.asarray(params[n]), dtype=torch.float64, requires_grad=True) for n in "abc")
        out = torch.relu(torch.tensor(np.asarray(x)).double() @ a + b) @ c
        ((out - torch.tensor(np.asarray(y)).double()) ** 2).mean().backward()
        wanted += ((a.grad * a).sum(0) + b.grad * b).pow(2).detach().numpy() / len(batches())
    close(found, wanted, rtol=1e-4)


def test_the_first_order_foretells_the_loss_without_a_weak_channel():
    params = {"a": drawn(2, 3).at[:, 1].multiply(1e-3), "b": jnp.zeros(3), "c": drawn(3, 1, seed=2)}
    (batch,) = batches(1)
    scores = importance.taylor(loss, params, CHANNELS, [batch], members="a:1")
    without = params | {"a": params["a"].at[:, 1].set(0)}
    change = float(loss(without, batch) - loss(params, batch))
    np.testing.assert_allclose(scores["a:1"][1], change**2, rtol=0.02)


# A control, and bad input


def test_random_scores_follow_the_key():
    params, channels = two_groups()
    one, same, other = (importance.random(jax.random.key(k), channels) for k in (0, 0, 1))
    assert {name: len(score) for name, score in one.items()} == {"a:1": 3, "b:1": 5}
    for name in one:
        assert jnp.array_equal(one[name], same[name]) and not jnp.array_equal(one[name], other[name])
        assert jnp.all((one[name] >= 0) & (one[name] < 1))
    assert not jnp.array_equal(one["a:1"], one["b:1"][:3])


def test_a_pattern_without_a_member_is_refused():
    with pytest.raises(ValueError, match=r"(?s)pattern 'd:0' matches no member of a group.*there are:\n  a:1\n  b:0"):
        importance.l1(PARAMS, CHANNELS, members="d:0")
    with pytest.raises(ValueError, match="is not a regular expression"):
        importance.l1(PARAMS, CHANNELS, members="(")


def test_the_channels_of_another_model_are_refused():
    with pytest.raises(ValueError, match="there is no parameter 'a'; the channels are those of another model"):
        importance.l1({"x": PARAMS["a"]}, CHANNELS)


def test_no_batches_are_refused():
    with pytest.raises(ValueError, match="there are no batches"):
        importance.taylor(loss, PARAMS, CHANNELS, [])
