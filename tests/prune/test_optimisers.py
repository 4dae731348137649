"""The state of every optimiser of optax after channels are removed: its next update runs, and is the dense one's."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcompress import channels, combine, lift, partition
from jaxcompress.arrays import Masked
from jaxcompress.prune import remove, remove_from_state

pytestmark = pytest.mark.usefixtures("promotion")

RATE = 0.01
SGD = lambda: optax.sgd(RATE, momentum=0.9)
PARAMS = {"a": {"bias": jnp.linspace(-1, 1, 8), "kernel": jnp.sin(jnp.arange(32.0)).reshape(4, 8)}}
PARAMS |= {"b": {"kernel": jnp.cos(jnp.arange(24.0)).reshape(8, 3)}}
KEPT = np.arange(8) % 3 != 1
FROZEN = {"a": {"bias": False, "kernel": True}, "b": {"kernel": False}}
LABELS = {"a": {"bias": "two", "kernel": "one"}, "b": {"kernel": "two"}}


def apply(p, x):
    return jax.nn.relu(x @ p["a"]["kernel"] + p["a"]["bias"][None]) @ p["b"]["kernel"]


def labelled(params):
    return jax.tree_util.tree_map_with_path(lambda keys, _: "one" if "kernel" in str(keys) else "two", params)


# Each entry of an update is computed from the entries at its place, and numbers that are the same for all.
ELEMENTWISE = {
    **{
        name: lambda name=name: getattr(optax, name)(RATE)
        for name in (
            *(
                "adabelief",
                "adadelta",
                "adagrad",
                "adam",
                "adamax",
                "adamaxw",
                "adamw",
                "adan",
                "amsgrad",
                "lion",
                "nadam",
            ),
            *("nadamw", "optimistic_gradient_descent", "radam", "rmsprop", "rprop", "sgd", "sign_sgd"),
            *("signum", "yogi"),
        )
    },
    "momentum": SGD,
    "nesterov": lambda: optax.sgd(RATE, momentum=0.9, nesterov=True),
    "rmsprop, centered": lambda: optax.rmsprop(RATE, centered=True, momentum=0.9),
    "adafactor, unfactored": lambda: optax.adafactor(
        RATE, min_dim_size_to_factor=10**9, clipping_threshold=None, multiply_by_parameter_scale=False
    ),
    "normalized by a deviation": lambda: optax.chain(optax.scale_by_stddev(), optax.scale(-RATE)),
    "root of sums": lambda: optax.chain(optax.scale_by_rss(), optax.scale(-RATE)),
    "simplified ademamix": lambda: optax.contrib.simplified_ademamix(RATE),
    "optimistic adam": lambda: optax.optimistic_adam_v2(RATE),
    "skipped": lambda: optax.conditionally_transform(optax.adam(RATE), lambda step: step < 9),
    "not below zero": lambda: optax.chain(optax.adam(RATE), optax.keep_params_nonnegative()),
    "selected": lambda: optax.selective_transform(optax.adam(RATE), freeze_mask=FROZEN),
    "ema": lambda: optax.chain(optax.ema(0.9), optax.scale(-RATE)),
    "trace": lambda: optax.chain(optax.trace(0.9), optax.scale(-RATE)),
    "named chain": lambda: optax.named_chain(("clip", optax.clip(0.3)), ("adam", optax.adam(RATE))),
    "schedule": lambda: optax.adam(optax.cosine_decay_schedule(RATE, 10)),
    "injected": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=RATE),
    "several steps": lambda: optax.MultiSteps(optax.adam(RATE), 2).gradient_transformation(),
    "finite": lambda: optax.apply_if_finite(optax.adam(RATE), 3),
    "every": lambda: optax.chain(optax.apply_every(2), optax.sgd(RATE)),
    "masked by a tree": lambda: optax.masked(optax.adam(RATE), jax.tree.map(lambda w: w.ndim > 1, PARAMS)),
    "masked by a prefix": lambda: optax.masked(optax.adam(RATE), {"a": False, "b": True}),
    "masked by a function": lambda: optax.masked(optax.adam(RATE), lambda p: jax.tree.map(lambda w: w.ndim > 1, p)),
    "decay of kernels": lambda: optax.adamw(RATE, mask=lambda p: jax.tree.map(lambda w: w.ndim > 1, p)),
    "decay by a tree": lambda: optax.adamw(RATE, mask=jax.tree.map(lambda w: w.ndim > 1, PARAMS)),
    "labels in a tree": lambda: optax.multi_transform({"one": optax.adam(RATE), "two": SGD()}, LABELS),
    "labels by a function": lambda: optax.multi_transform({"one": optax.adam(RATE), "two": SGD()}, labelled),
    "labels like parameters": lambda: optax.multi_transform({"a": optax.adam(RATE), "b": SGD()}, {"a": "a", "b": "b"}),
    "some frozen": lambda: optax.multi_transform({"one": optax.adam(RATE), "two": optax.set_to_zero()}, LABELS),
    "average of updates": lambda: optax.chain(optax.adam(RATE), optax.ema(0.5, debias=False)),
    "schedule free": lambda: optax.contrib.schedule_free_sgd(RATE, b1=0.9),
    "acprop": lambda: optax.contrib.acprop(RATE),
    "ademamix": lambda: optax.contrib.ademamix(RATE),
    "adopt": lambda: optax.contrib.adopt(RATE),
    "cocob": lambda: optax.contrib.cocob(),
    "complex parts": lambda: optax.contrib.split_real_and_imaginary(optax.adam(RATE)),
    "madgrad": lambda: optax.contrib.madgrad(RATE),
    "plateau": lambda: optax.chain(optax.adam(RATE), optax.contrib.reduce_on_plateau()),
    "sam": lambda: optax.contrib.sam(optax.sgd(RATE), optax.adam(RATE), sync_period=2, reset_state=False),
}
# One number for all of a parameter, or of all parameters, goes into an update: a norm, an estimate of a step.
WHOLE = {
    **{
        name: lambda name=name: getattr(optax, name)(RATE)
        for name in ("adafactor", "fromage", "lamb", "lars", "novograd", "sm3")
    },
    "clipped by norm": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(RATE)),
    "clipped by adaptive norm": lambda: optax.chain(optax.adaptive_grad_clip(0.1), SGD()),
    "noisy": lambda: optax.noisy_sgd(RATE, key=0),
    "normalized": lambda: optax.chain(optax.normalize_by_update_norm(), SGD()),
    "clipped by blocks": lambda: optax.chain(optax.clip_by_block_rms(1.0), optax.centralize(), SGD()),
    "adaptive muon": lambda: optax.contrib.muon(RATE, adaptive=True),
    "schedule free adam": lambda: optax.contrib.schedule_free_adamw(RATE),
    "sophia": lambda: optax.contrib.sophia(RATE),
    "dadapt": lambda: optax.contrib.dadapt_adamw(1.0),
    "dog": lambda: optax.contrib.dog(RATE),
    "dowg": lambda: optax.contrib.dowg(RATE),
    "mechanic": lambda: optax.contrib.mechanize(optax.adam(RATE)),
    "momo": lambda: optax.contrib.momo(RATE),
    "momo adam": lambda: optax.contrib.momo_adam(RATE),
    "muon": lambda: optax.contrib.muon(RATE),
    "prodigy": lambda: optax.contrib.prodigy(1.0),
    "polyak": lambda: optax.polyak_sgd(),
}

# What these keep is of several channels at once.
REFUSED = {
    "adafactor, factored": lambda: optax.adafactor(RATE, min_dim_size_to_factor=2),
    "lbfgs": lambda: optax.lbfgs(RATE),
    "galore": lambda: optax.contrib.galore(RATE, rank=2),
}
ARGUMENTS = {"value": {"plateau", "momo", "momo adam", "polyak"}, "obj_fn": {"sophia"}}


def loss(params, x):
    return jnp.sum(lift(apply)(params, x) ** 2)


@pytest.fixture(scope="module")
def x():
    return jnp.linspace(-1.0, 1.0, 8).reshape(2, 4)


@pytest.fixture(scope="module")
def found(x):
    return channels(apply, PARAMS, x)


def extra(name, x):
    """Returns the further arguments of an optimiser's update."""
    values = {"value": jnp.float32(1.0), "obj_fn": lambda params: loss(params, x)}
    return {argument: values[argument] for argument, names in ARGUMENTS.items() if name in names}


def trained(name, optimiser, x):
    """Returns the parameters and the state after two steps."""
    params, state = PARAMS, optimiser.init(PARAMS)
    for _ in range(2):
        updates, state = optimiser.update(jax.grad(loss)(params, x), state, params, **extra(name, x))
        params = optax.apply_updates(params, updates)
    return params, state


def close(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), a, b)


@pytest.mark.parametrize("name", [*ELEMENTWISE, *WHOLE])
@pytest.mark.sampled(3)
def test_the_next_update_is_that_of_what_is_left(name, x, found):
    optimiser = {**ELEMENTWISE, **WHOLE}[name]()
    params, state = trained(name, optimiser, x)
    small, left = remove(params, found, {0: KEPT}), remove_from_state(state, params, found, {0: KEPT})
    anew = optimiser.init(small)
    assert jax.tree.structure(left) == jax.tree.structure(anew)
    assert jax.tree.map(jnp.shape, left) == jax.tree.map(jnp.shape, anew)
    grads = jax.tree.map(jnp.sin, params)
    updates, again = optimiser.update(remove(grads, found, {0: KEPT}), left, small, **extra(name, x))
    assert jax.tree.structure(again) == jax.tree.structure(left)
    assert all(np.isfinite(update).all() for update in jax.tree.leaves(updates))
    if name in ELEMENTWISE:
        dense, after = optimiser.update(grads, state, params, **extra(name, x))
        close(updates, remove(dense, found, {0: KEPT}))
        close(again, remove_from_state(after, params, found, {0: KEPT}))


def test_every_optimiser_of_optax_is_here():
    text = inspect.getsource(inspect.getmodule(trained))
    for module in (optax, optax.contrib):
        for name, function in vars(module).items():
            rated = inspect.isfunction(function) and "learning_rate" in inspect.signature(function).parameters
            if rated and not name.startswith(("_", "scale_by_")):  # what these are made of
                assert name in text or name == "dpsgd", name  # which has SGD's state, and gradients by example


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_kept_of_several_channels_at_once_is_refused(name, x, found):
    optimiser = REFUSED[name]()
    state = optimiser.init(PARAMS)
    with pytest.raises(ValueError, match=r"(a|b)/(bias|kernel).* is no slice by slice state of (a|b)/(bias|kernel)"):
        remove_from_state(state, PARAMS, found, {0: KEPT})


@pytest.mark.parametrize(
    "make", [lambda: optax.adam(RATE), lambda: optax.novograd(RATE), lambda: optax.sm3(RATE), ELEMENTWISE["selected"]]
)
def test_states_of_masked_leaves_and_of_what_was_cut_before(make, x):
    optimiser = make()
    tree = jax.tree.map(lambda w: Masked(w, w > -0.3) if w.ndim > 1 else w, PARAMS)
    made = channels(apply, tree, x)
    first = remove_from_state(optimiser.init(partition(tree)[0]), tree, made, {0: np.arange(8) > 1})
    tree = remove(tree, made, {0: np.arange(8) > 1})
    left = remove_from_state(first, tree, made, {0: KEPT})
    part, fixed = partition(remove(tree, made, {0: KEPT}))
    assert jax.tree.structure(left) == jax.tree.structure(optimiser.init(part))
    assert jax.tree.map(jnp.shape, left) == jax.tree.map(jnp.shape, optimiser.init(part))
    grads = jax.grad(lambda part: loss(combine(part, fixed), x))(part)
    optimiser.update(grads, left, part)


def test_the_state_of_one_collection_of_variables_is_cut(x):
    variables = {"params": PARAMS, "batch_stats": {"a": {"mean": jnp.zeros(8)}}}

    def normalized(v, x):
        p = v["params"]
        h = x @ p["a"]["kernel"] + p["a"]["bias"][None] - v["batch_stats"]["a"]["mean"][None]
        return jax.nn.relu(h) @ p["b"]["kernel"]

    made, optimiser = channels(normalized, variables, x), optax.adam(RATE)
    left = remove_from_state(optimiser.init(PARAMS), variables, made, {0: KEPT})
    small = remove(variables, made, {0: KEPT})
    assert jax.tree.structure(left) == jax.tree.structure(optimiser.init(small["params"]))


def test_parameters_that_are_one_array(x):
    table = jnp.cos(jnp.arange(24.0)).reshape(4, 6)
    made = channels(lambda p, x: jax.nn.relu(x @ p) @ p.T @ jnp.ones((4, 2)), table, x)
    (group,) = made.groups
    kept = {0: np.arange(group.channels) > 2}
    left = remove_from_state(optax.adam(RATE).init(table), table, made, kept)
    assert jax.tree.structure(left) == jax.tree.structure(optax.adam(RATE).init(remove(table, made, kept)))


def test_a_state_is_cut_while_tracing(x, found):
    state = optax.adam(RATE).init(PARAMS)
    left = jax.jit(lambda state, params: remove_from_state(state, params, found, {0: KEPT}))(state, PARAMS)
    close(left, remove_from_state(state, PARAMS, found, {0: KEPT}))
