"""Checks re-estimated statistics against NumPy, Linen's own and PyTorch's averages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxcompress as jc
from jaxcompress.arrays import Masked, Sliced


def drawn(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


class Net(nn.Module):
    """Two layers, each with a normalization."""

    momentum: float = 0.9

    @nn.compact
    def __call__(self, x, train=False):
        options = {"use_running_average": not train, "momentum": self.momentum}
        x = nn.relu(nn.BatchNorm(name="norm1", **options)(nn.Dense(6, name="fc1")(x)))
        return nn.Dense(2, name="fc2")(nn.relu(nn.BatchNorm(name="norm2", **options)(nn.Dense(5, name="fc")(x))))


def linen(momentum=0.9):
    model = Net(momentum)
    variables = model.init(jax.random.key(0), jnp.ones((2, 4)))

    def update(params):
        apply = jc.lift(model.apply)
        return lambda statistics, x: apply(
            {"params": params, "batch_stats": statistics}, x, train=True, mutable=["batch_stats"]
        )[1]["batch_stats"]

    return model, variables, update


def forward(params, x):
    """The statistics of both layers on one batch, in float64."""
    p = jax.tree.map(lambda v: np.asarray(v, np.float64), params)
    found = {}
    for layer, norm in (("fc1", "norm1"), ("fc", "norm2")):
        x = np.asarray(x, np.float64) @ p[layer]["kernel"] + p[layer]["bias"]
        found[norm] = {"mean": x.mean(0), "var": x.var(0)}
        x = np.maximum((x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * p[norm]["scale"] + p[norm]["bias"], 0)
    return found


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.999])
def test_the_statistics_are_those_of_the_batches(momentum):
    _, variables, update = linen(momentum)
    batches = [drawn(8, 4), drawn(4, 4, seed=1)]
    old = jax.tree.map(lambda s: s + 100, variables["batch_stats"])
    found = jc.reestimate(update(variables["params"]), old, batches, momentum=momentum)
    one, two = (forward(variables["params"], x) for x in batches)
    wanted = jax.tree.map(lambda a, b: (8 * a + 4 * b) / 12, one, two)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5), found, wanted)
    assert jax.tree.structure(found) == jax.tree.structure(old)


def test_the_average_is_that_of_torch():
    torch = pytest.importorskip("torch")
    batches = [drawn(8, 3, seed=i) * (i + 1) for i in range(3)]
    norm = torch.nn.BatchNorm1d(3)
    data = [torch.tensor(np.asarray(x)) for x in batches]
    torch.optim.swa_utils.update_bn(data, norm)

    def update(statistics, x):
        mean, var = jnp.mean(x, 0), jnp.var(x, 0, ddof=1)  # PyTorch's variance is the unbiased one
        return {"mean": 0.7 * statistics["mean"] + 0.3 * mean, "var": 0.7 * statistics["var"] + 0.3 * var}

    found = jc.reestimate(update, {"mean": jnp.ones(3), "var": jnp.ones(3)}, batches, momentum=0.7)
    np.testing.assert_allclose(found["mean"], norm.running_mean.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["var"], norm.running_var.numpy(), rtol=1e-5)


def test_statistics_of_removed_channels_stay_removed():
    model, variables, update = linen()
    x = drawn(8, 4)
    channels = jc.channels(lambda v, x: model.apply(v, x), variables, x)
    kept = {group.name: np.arange(group.channels) % 3 != 1 for group in channels.groups}
    small = jc.prune.remove(variables, channels, kept)
    found = jc.reestimate(update(small["params"]), small["batch_stats"], [x], momentum=0.9)
    assert isinstance(found["norm1"]["mean"], Sliced) and found["norm1"]["mean"].weight.shape == (4,)
    assert jax.tree.structure(found) == jax.tree.structure(small["batch_stats"])
    masked = jc.densify(jc.prune.mask(variables, channels, kept))["params"]
    wanted = forward(masked, x)
    stays = np.arange(6) % 3 != 1
    np.testing.assert_allclose(found["norm1"]["mean"].weight, wanted["norm1"]["mean"][stays], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["norm2"]["var"].weight, wanted["norm2"]["var"][stays[:5]], rtol=1e-4)


def test_a_model_whose_weights_changed_is_normalized_again():
    model, variables, update = linen()
    x = drawn(64, 4)
    params = jax.tree.map(lambda w: 3 * w + 0.5, variables["params"])
    found = jc.reestimate(update(params), variables["batch_stats"], [x], momentum=0.9)
    trained, _ = model.apply({"params": params, "batch_stats": found}, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(model.apply({"params": params, "batch_stats": found}, x), trained, rtol=1e-3, atol=1e-4)


def test_bad_input_is_refused():
    same = lambda statistics, x: statistics
    statistics, batches = {"mean": jnp.ones(3)}, [jnp.ones((2, 3))]
    for momentum in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="is not in"):
            jc.reestimate(same, statistics, batches, momentum=momentum)
    with pytest.raises(ValueError, match="there are no batches"):
        jc.reestimate(same, statistics, [], momentum=0.9)
    with pytest.raises(ValueError, match=r"update returns \['var'\]; the statistics are \['mean'\]"):
        jc.reestimate(lambda s, x: {"var": s["mean"]}, statistics, batches, momentum=0.9)
    with pytest.raises(ValueError, match="mean is not finite"):
        jc.reestimate(lambda s, x: {"mean": s["mean"] + jnp.inf}, statistics, batches, momentum=0.9)
    with pytest.raises(ValueError, match="mean is a Masked; statistics are arrays"):
        jc.reestimate(same, {"mean": Masked(jnp.ones(3), jnp.ones(3, bool))}, batches, momentum=0.9)
