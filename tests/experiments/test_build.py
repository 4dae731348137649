"""Configuration becomes the objects that it names."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcompress as jc
from experiments import build, config, runs

pytestmark = pytest.mark.usefixtures("promotion")


DIGITS = config.Data("digits", 200, limit=20)


def experiment(model=None, seed=0):
    return config.Experiment(DIGITS, model or config.MLP((16,)), (config.Stage("s", 1),), seed)


def kernel():
    return {"fc1": {"kernel": jax.random.normal(jax.random.key(1), (8, 6))}}


def rate_at(spec, steps, step, epoch_steps=1):
    """The learning rate of plain gradient descent is what a unit gradient moves a weight by."""
    optimiser = build.optimiser(spec, steps, epoch_steps)
    state = optimiser.init(jnp.zeros(1))
    update = jnp.zeros(1)
    for _ in range(step + 1):
        update, state = optimiser.update(jnp.ones(1), state, jnp.zeros(1))
    return float(-update[0])


def test_initial_parameters_are_those_of_the_seed_alone():
    data = runs.dataset(DIGITS, None)
    one, same, other = (build.initial_params(experiment(seed=seed), data) for seed in (0, 0, 1))
    assert one["fc1"]["kernel"].shape == (64, 16) and one["fc2"]["kernel"].shape == (16, 10)
    np.testing.assert_array_equal(one["fc1"]["kernel"], same["fc1"]["kernel"])
    assert np.all(np.asarray(one["fc1"]["kernel"]) != np.asarray(other["fc1"]["kernel"]))


def test_keys_of_purposes_and_seeds_differ():
    keys = [build.seed_key(seed, purpose) for seed in (0, 1) for purpose in ("init", "stage 1", "stage 2")]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == 6


def test_bytes_and_scaled_images_have_the_same_logits():
    data = runs.dataset(DIGITS, None)
    logits = build.predictor(config.MLP((16,)), data.classes)
    params = build.initial_params(experiment(), data)
    images = jnp.asarray(data.test.images)
    np.testing.assert_array_equal(logits(params, images), logits(params, build.scaled(images)))
    assert build.scaled(images).dtype == jnp.float32 and float(build.scaled(images).max()) <= 1


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float16, jnp.bfloat16])
@pytest.mark.parametrize("spec", [config.MLP((16,)), config.MLP((16,), center=True), config.LeNet5()], ids=str)
def test_training_and_evaluation_are_given_the_same_images(dtype, spec):
    """What is scaled in one is scaled in the other, whatever the type of the data."""
    data = runs.dataset(DIGITS, None)
    images = data.train.images if dtype == np.uint8 else (data.train.images / 255).astype(dtype)
    if isinstance(spec, config.LeNet5):
        images = np.pad(images, ((0, 0), (10, 10), (10, 10), (0, 0)))
    data = data._replace(train=data.train._replace(images=images))
    params = build.initial_params(experiment(spec), data)
    trained = build.trainer(spec, 10)(params, jnp.asarray(images), jax.random.key(0)).logits
    np.testing.assert_allclose(trained, build.predictor(spec, 10)(params, jnp.asarray(images)), rtol=1e-4, atol=1e-5)
    assert float(jnp.std(trained)) > 0.01
    if getattr(spec, "center", False):
        expected = images.astype(np.float64).mean(0).reshape(-1) / (255 if dtype == np.uint8 else 1)
        np.testing.assert_allclose(params["batch_stats"]["pixel_mean"], expected, atol=1e-5)


def test_floats_are_given_as_they_are_and_other_types_are_refused():
    reals = jnp.asarray([-3.0, 0.25, 300.0])
    np.testing.assert_array_equal(build.scaled(reals), reals)
    np.testing.assert_allclose(build.scaled(jnp.uint8([0, 51, 255])), [0, 0.2, 1], rtol=1e-6)
    for wrong in (jnp.int32(3), jnp.bool_(True), jnp.int8(1)):
        with pytest.raises(ValueError, match=f"images of dtype {wrong.dtype} have no scale; they are uint8"):
            build.scaled(wrong)


def test_dropout_acts_in_training_alone_and_follows_its_key():
    data = runs.dataset(DIGITS, None)
    spec = config.MLP((16,), 0.5)
    params = build.initial_params(experiment(spec), data)
    images = jnp.asarray(data.train.images)
    train, one, two = build.trainer(spec, 10), jax.random.key(1), jax.random.key(2)
    first, again, other = (train(params, images, key).logits for key in (one, one, two))
    assert train(params, images, one).statistics == {}
    np.testing.assert_array_equal(first, again)
    assert np.any(np.asarray(first) != np.asarray(other))
    dry = build.trainer(config.MLP((16,)), 10)(params, images, one).logits
    np.testing.assert_allclose(dry, build.predictor(spec, 10)(params, images), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_loss_and_gradient_on_patches_equal_the_native_ones():
    spec = config.LeNet5()
    images = jax.random.randint(jax.random.key(0), (4, 28, 28, 1), 0, 256).astype(jnp.uint8)
    labels = jnp.arange(4)
    params = build.model(spec, 10).init(jax.random.key(1), jnp.zeros((1, 28, 28, 1)))["params"]

    def loss(logits):
        return lambda p: optax.softmax_cross_entropy_with_integer_labels(logits(p), labels).mean()

    on_patches = loss(lambda p: build.trainer(spec, 10)(p, images, jax.random.key(2)).logits)
    native = loss(lambda p: build.predictor(spec, 10)(p, images))
    (a, grad_a), (b, grad_b) = (jax.jit(jax.value_and_grad(f))(params) for f in (on_patches, native))
    np.testing.assert_allclose(a, b, rtol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-6), grad_a, grad_b)


def test_learning_rates_decay_to_zero_at_the_end_of_the_stage():
    def rates(decay):
        spec = config.Optimiser("sgd", 0.1, decay, momentum=0.0)
        return [rate_at(spec, 10, step) for step in (0, 5, 10)]

    np.testing.assert_allclose(rates("constant"), [0.1, 0.1, 0.1], rtol=1e-5)
    np.testing.assert_allclose(rates("linear"), [0.1, 0.05, 0.0], rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(rates("cosine"), [0.1, 0.05, 0.0], rtol=1e-5, atol=1e-8)


def test_exponential_decay_ends_at_the_final_rate():
    spec = config.Optimiser("sgd", 1e-3, "exponential", momentum=0.0, final=1e-7)
    np.testing.assert_allclose([rate_at(spec, 8, s) for s in (0, 2, 4, 8)], [1e-3, 1e-4, 1e-5, 1e-7], rtol=1e-4)


def test_steps_fall_to_a_tenth_after_their_epochs():
    spec = config.Optimiser("sgd", 0.1, "steps", momentum=0.0, at=(1.5, 3))
    rates = [rate_at(spec, 40, step, epoch_steps=4) for step in (0, 5, 6, 11, 12, 20)]
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-5)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_glorot_scaling_is_of_the_updates_of_kernels(name):
    plain = config.Optimiser(name, 0.1, "constant", weight_decay=0.01)
    weights = {"conv": jnp.ones((5, 5, 3, 8)), "fc": jnp.ones((7, 2)), "bias": jnp.ones(8)}
    gradients = jax.tree.map(lambda a: 0.5 * a, weights)
    updates = []
    for spec in (plain, replace(plain, scaling="glorot")):
        optimiser = build.optimiser(spec, 10)
        updates.append(optimiser.update(gradients, optimiser.init(weights), weights)[0])
    for path, times in (("conv", np.sqrt(25 * 11 / 1.5)), ("fc", np.sqrt(9 / 1.5)), ("bias", 1.0)):
        np.testing.assert_allclose(updates[1][path], times * updates[0][path], rtol=1e-6)


def test_glorot_scaling_reaches_into_compressed_leaves():
    trainable, _ = jc.partition(jc.quantize.binary("fc1/kernel").init(kernel()))
    optimiser = build.optimiser(config.Optimiser("sgd", 0.1, "constant", momentum=0.0, scaling="glorot"), 10)
    update, _ = optimiser.update(jax.tree.map(jnp.ones_like, trainable), optimiser.init(trainable), trainable)
    np.testing.assert_allclose(update["fc1"]["kernel"].weight, np.full((8, 6), -0.1 * np.sqrt(14 / 1.5)), rtol=1e-6)


def test_nesterov_looks_ahead_by_hand():
    """Two steps on a constant gradient of one: the momentum is 1 and 1.9, what moves is 1 + 0.9 times that."""
    optimiser = build.optimiser(config.Optimiser("sgd", 0.1, "constant", nesterov=True), 10)
    state, moved = optimiser.init(jnp.ones(())), []
    for _ in range(2):
        update, state = optimiser.update(jnp.ones(()), state, jnp.ones(()))
        moved.append(float(update))
    assert moved == pytest.approx([-0.1 * (1 + 0.9), -0.1 * (1 + 0.9 * 1.9)])
    with pytest.raises(ValueError, match="nesterov is a momentum of 'sgd', not of 'adam'"):
        config.Optimiser("adam", nesterov=True)


def test_weight_decay_is_l2_for_sgd_and_decoupled_for_adam():
    weight, gradient = jnp.array([2.0]), jnp.zeros(1)
    for name, expected in (("sgd", -0.1 * 0.01 * 2.0), ("adam", -0.1 * 0.01 * 2.0)):
        optimiser = build.optimiser(config.Optimiser(name, 0.1, "constant", weight_decay=0.01), 10)
        update, _ = optimiser.update(gradient, optimiser.init(weight), weight)
        np.testing.assert_allclose(update, [expected], rtol=1e-5)
    adam = build.optimiser(config.Optimiser("adam", 0.1, "constant"), 10)
    update, _ = adam.update(jnp.array([7.0]), adam.init(weight), weight)
    np.testing.assert_allclose(update, [-0.1], rtol=1e-3)  # Adam's first step is the learning rate


def test_initial_statistics_stand_beside_the_weights():
    params = build.initial_params(experiment(config.MLP((16,), norm=True)), runs.dataset(DIGITS, None))
    assert set(params) == {"fc1", "fc1_norm", "fc2", "fc2_norm", "batch_stats"}
    np.testing.assert_array_equal(params["batch_stats"]["fc1_norm"]["mean"], np.zeros(16))
    np.testing.assert_array_equal(params["batch_stats"]["fc2_norm"]["var"], np.ones(10))


def test_inference_normalizes_by_the_running_statistics_and_training_by_the_batch():
    data, spec = runs.dataset(DIGITS, None), config.MLP((16,), norm=True)
    params = build.initial_params(experiment(spec), data)
    images = jnp.asarray(data.train.images)
    shifted = params | {"batch_stats": jax.tree.map(lambda a: a + 1, params["batch_stats"])}
    predict, train = build.predictor(spec, 10), build.trainer(spec, 10)
    assert np.any(np.asarray(predict(params, images)) != np.asarray(predict(shifted, images)))
    (one, moved, _), (other, _, _) = (train(p, images, jax.random.key(0)) for p in (params, shifted))
    np.testing.assert_array_equal(one, other)
    assert jax.tree.structure(moved) == jax.tree.structure({"batch_stats": params["batch_stats"]})
    np.testing.assert_allclose(np.mean(one, axis=0), np.zeros(10), atol=1e-5)


@pytest.mark.parametrize("spec", [config.MLP((16,), norm=True), config.LeNet5BN(), config.MLP((16,), 0.5)])
def test_activations_are_not_rounded_in_the_training_of_what_a_graph_has_not(spec):
    with pytest.raises(ValueError, match="it has dropout or batch normalization"):
        build.trainer(spec, 10, config.Activations(".*", 4))


def test_statistics_are_folded_into_the_graph_of_a_device():
    data, spec = runs.dataset(DIGITS, None), config.MLP((16,), norm=True)
    params = build.initial_params(experiment(spec), data)
    shifted = params | {"batch_stats": jax.tree.map(lambda a: a + 0.5, params["batch_stats"])}
    images, predict = build.scaled(jnp.asarray(data.test.images)), build.predictor(spec, 10)
    graph, weights = jc.read(predict, shifted, images[:1])
    assert set(weights) == {"fc1", "fc2"} and {node.kind for node in graph.nodes} <= {"dense", "reshape"}
    (w1, b1), (w2, b2) = ([np.float64(weights[name][part]) for part in ("kernel", "bias")] for name in ("fc1", "fc2"))
    x = np.maximum(np.float64(images).reshape(len(images), -1) @ w1 + b1, 0) @ w2 + b2
    np.testing.assert_allclose(predict(shifted, images), x, rtol=1e-4, atol=1e-5)


def test_images_too_small_for_the_model_are_refused():
    with pytest.raises(ValueError):
        build.initial_params(experiment(config.LeNet5()), runs.dataset(DIGITS, None))


def test_weights_into_a_unit_are_no_longer_than_their_norm_after_any_step():
    spec = config.Optimiser("sgd", 0.5, "constant", max_norm=1.0)
    optimiser = build.optimiser(spec, 10)
    params = {"kernel": jnp.array([[3.0, 0.1], [4.0, 0.2]]), "bias": jnp.array([5.0, 5.0])}
    grads = jax.tree.map(jnp.zeros_like, params) | {"kernel": jnp.array([[0.0, -0.4], [0.0, 0.0]])}
    updates, _ = optimiser.update(grads, optimiser.init(params), params)
    moved = optax.apply_updates(params, updates)
    np.testing.assert_allclose(moved["kernel"], [[0.6, 0.3], [0.8, 0.2]], rtol=1e-6)  # the second was short enough
    np.testing.assert_array_equal(moved["bias"], params["bias"])
    with pytest.raises(ValueError, match="max_norm=-1.0 is a length of at least 0"):
        config.Optimiser(max_norm=-1.0)


def test_inputs_are_dropped_in_training_alone():
    data = runs.dataset(DIGITS, None)
    spec = config.MLP((16,), input_dropout=0.5)
    params = build.initial_params(experiment(spec), data)
    images = jnp.asarray(data.train.images[:20])
    wet = build.trainer(spec, 10)(params, images, jax.random.key(1)).logits
    dry = build.trainer(config.MLP((16,)), 10)(params, images, jax.random.key(1)).logits
    assert np.any(np.asarray(wet) != np.asarray(dry))
    np.testing.assert_array_equal(
        build.predictor(spec, 10)(params, images), build.predictor(config.MLP((16,)), 10)(params, images)
    )
    with pytest.raises(ValueError, match="it has dropout or batch normalization"):
        build.trainer(spec, 10, config.Activations(".*", 4))


@pytest.mark.parametrize("widths", [{"filters": (0, 50)}, {"filters": (20, -1)}, {"hidden": 0}])
def test_a_lenet_without_filters_or_units_is_refused(widths):
    with pytest.raises(ValueError, match="LeNet-5: filters=.*, hidden=.*; there is at least one of each"):
        config.LeNet5(**widths)
