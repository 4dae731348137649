"""An epoch is one program, traced once; only what may be trained is moved."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcompress as jc
from experiments import build, config, train
from experiments.variables import joined, on_weights, split
from jaxcompress.arrays import is_compressed
from tests.traces import Counted

pytestmark = pytest.mark.usefixtures("promotion")


SPEC = config.MLP((8,))
RECIPES = {
    "dense": jc.chain(),
    "pruned": jc.prune.magnitude("fc1/kernel", 0.5, every=1000),
    "ramp": jc.prune.magnitude("fc./kernel", jc.schedules.cubic(0.0, 0.8, begin=0, end=6), every=2),
    "shared": jc.quantize.codebook("fc./kernel", 3),
    "quantized": jc.quantize.weights("fc./kernel", 4),
    "factored": jc.factorize.svd("fc1/kernel", 3),
    "all": jc.chain(
        jc.factorize.svd("fc1/kernel", 3),
        jc.prune.magnitude("fc1/kernel/u", 0.5, every=2),
        jc.quantize.weights("fc1/kernel/v", 4),
        jc.quantize.codebook("fc2/kernel", 2),
    ),
}


def examples(teacher=None, size=60):
    labels = jnp.arange(size) % 4
    images = jax.random.randint(jax.random.key(0), (size, 4, 4, 1), 0, 100).astype(jnp.uint8)
    images = images.at[:, 0, 0, 0].set((60 * labels).astype(jnp.uint8))  # something to learn
    return train.Examples(images, labels, jnp.zeros((size, 0)) if teacher is None else teacher)


def params():
    return build.model(SPEC, 4).init(jax.random.key(1), jnp.zeros((1, 4, 4, 1)))["params"]


def traced_once(outputs, epochs):
    """Trains, and sees that the model is traced in the first epoch alone."""
    made = [next(epochs)]
    traces = outputs.calls
    made += epochs
    assert outputs.calls == traces > 0
    return made


def trained(recipe, epochs=3, objective=None, given=None, optimiser=None, batch=20):
    """Returns the losses, the state before and after, and the program."""
    optimiser = optimiser or optax.adam(0.01)
    outputs = Counted(build.trainer(SPEC, 4))
    program = train.epoch_program(outputs, optimiser, recipe, objective or train.Objective(), batch)
    before = train.begin(recipe.init(params()), optimiser)
    made = traced_once(outputs, train.epochs(program, before, given or examples(), jax.random.key(2), 1, epochs))
    assert [epoch for epoch, _, _ in made] == list(range(1, epochs + 1))
    return [loss for _, _, loss in made], before, made[-1][1], program


@pytest.mark.parametrize("name", RECIPES)
def test_epoch_is_traced_once_and_the_loss_falls(name):
    losses, before, after, program = trained(RECIPES[name], 10)
    assert losses[-1] < losses[0]
    assert jax.tree.structure(train.params_of(after)) == jax.tree.structure(train.params_of(before))
    assert int(after.step) == 30


@pytest.mark.parametrize("name", ["pruned", "shared", "all"])
def test_masks_and_codes_are_not_moved_by_the_optimiser(name):
    stay = jc.Transform("stay", RECIPES[name].init, jc.chain().update)  # whatever moves was moved by the optimiser
    decaying = optax.adamw(0.01, weight_decay=0.1)
    _, before, after, _ = trained(stay, optimiser=decaying)
    assert jax.tree.leaves(before.fixed)
    for a, b in zip(jax.tree.leaves(before.fixed), jax.tree.leaves(after.fixed), strict=True):
        np.testing.assert_array_equal(a, b)


def test_mask_changes_along_its_ramp():
    _, before, after, _ = trained(RECIPES["ramp"])
    removed = [int((~train.params_of(s)["fc1"]["kernel"].mask).sum()) for s in (before, after)]
    assert removed == [0, round(0.8 * 16 * 8)]


def test_centroids_move_and_codes_stay():
    _, before, after, _ = trained(RECIPES["shared"])
    a, b = (train.params_of(state)["fc1"]["kernel"] for state in (before, after))
    assert np.any(np.asarray(a.centroids) != np.asarray(b.centroids))
    np.testing.assert_array_equal(a.codes, b.codes)


def test_training_is_the_same_bits_again_and_from_the_middle():
    recipe, optimiser = RECIPES["all"], optax.adam(0.01)
    program = train.epoch_program(build.trainer(SPEC, 4), optimiser, recipe, train.Objective(), 20)
    begin = train.begin(recipe.init(params()), optimiser)
    key = jax.random.key(2)
    whole = [state for _, state, _ in train.epochs(program, begin, examples(), key, 1, 4)]
    rest = [state for _, state, _ in train.epochs(program, whole[1], examples(), key, 3, 4)]
    for a, b in zip(jax.tree.leaves(whole[3]), jax.tree.leaves(rest[1]), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_no_epochs_give_nothing():
    assert trained(RECIPES["dense"], 1)[0]
    program = train.epoch_program(build.trainer(SPEC, 4), optax.sgd(0.1), jc.chain(), train.Objective(), 20)
    begin = train.begin(params(), optax.sgd(0.1))
    assert list(train.epochs(program, begin, examples(), jax.random.key(0), 1, 0)) == []


def test_order_of_the_examples_differs_between_epochs():
    seen = []

    def logits(params, images, key):
        jax.debug.callback(lambda x: seen.append(x[:, 0, 0, 0].tolist()), images, ordered=True)
        return build.Outputs(jnp.zeros((images.shape[0], 4)) + 0 * params["w"], {}, {})

    program = train.epoch_program(logits, optax.sgd(0.1), jc.chain(), train.Objective(), 6)
    given = examples(size=20)._replace(images=jnp.arange(20, dtype=jnp.uint8).reshape(20, 1, 1, 1))
    begin = train.begin({"w": jnp.zeros(())}, optax.sgd(0.1))
    list(train.epochs(program, begin, given, jax.random.key(0), 1, 2))
    jax.effects_barrier()
    first, second = sum(seen[:3], []), sum(seen[3:], [])
    assert len(seen) == 6 and first != second
    for order in (first, second):  # every example once, but for the rest of 20 beyond 3 batches of 6
        assert len(set(order)) == 18


def test_images_are_changed_and_the_teacher_sees_them_so():
    """Both see what `augment` makes of the images, whose keys no two steps share."""
    seen, taught, keys = [], [], []

    def outputs(params, images, key):
        jax.debug.callback(lambda x: seen.append(x[:, 0, 0, 0].tolist()), images, ordered=True)
        return build.Outputs(jnp.zeros((images.shape[0], 4)) + 0 * params["w"], {}, {})

    def teacher(images):
        jax.debug.callback(lambda x: taught.append(x[:, 0, 0, 0].tolist()), images, ordered=True)
        return build.Heard(jnp.zeros((images.shape[0], 4)), {})

    def augment(images, key):
        jax.debug.callback(lambda data: keys.append(data.tolist()), jax.random.key_data(key), ordered=True)
        return images + 100

    program = train.epoch_program(
        outputs, optax.sgd(0.1), jc.chain(), train.Objective(0.5), 6, augment=augment, teacher=teacher
    )
    given = examples(size=20)._replace(images=jnp.arange(20, dtype=jnp.uint8).reshape(20, 1, 1, 1))
    begin = train.begin({"w": jnp.zeros(())}, optax.sgd(0.1))
    list(train.epochs(program, begin, given, jax.random.key(0), 1, 2))
    jax.effects_barrier()
    assert seen == taught and len(seen) == 6 and {pixel // 20 for row in seen for pixel in row} == {5}
    assert len(set(map(tuple, keys))) == 6


def test_teacher_of_no_weight_changes_nothing():
    teacher = jax.random.normal(jax.random.key(5), (60, 4))
    alone = trained(RECIPES["dense"])
    unheard = trained(RECIPES["dense"], objective=train.Objective(0.0, 4.0), given=examples(teacher))
    assert alone[0] == unheard[0]


def test_teacher_of_all_weight_is_followed_whatever_the_labels():
    teacher = 10 * jax.nn.one_hot((jnp.arange(60) + 1) % 4, 4)  # always wrong
    losses, _, after, _ = trained(RECIPES["dense"], 60, train.Objective(1.0, 1.0), examples(teacher), optax.adam(0.03))
    guesses = build.predictor(SPEC, 4)(train.params_of(after), examples().images).argmax(-1)
    assert losses[-1] < 0.5 * losses[0]
    assert float((guesses == teacher.argmax(-1)).mean()) > 0.6


def test_loss_weighs_labels_and_teacher():
    teacher = jax.random.normal(jax.random.key(5), (60, 4))
    given = examples(teacher)
    still = optax.sgd(0.0)
    (mixed, labels, soft) = (
        trained(RECIPES["dense"], 1, train.Objective(weight, 2.0), given, still, 60)[0][0] for weight in (0.3, 0, 1)
    )
    assert mixed == pytest.approx(0.7 * labels + 0.3 * soft, rel=1e-5)
    logits = build.predictor(SPEC, 4)(params(), given.images)
    by_hand = optax.softmax_cross_entropy_with_integer_labels(logits, given.labels).mean()
    assert labels == pytest.approx(float(by_hand), rel=1e-5)


def test_square_hinge_is_that_of_one_svm_for_each_class():
    logits = np.random.default_rng(0).normal(scale=2, size=(50, 7))
    labels = np.random.default_rng(1).integers(0, 7, 50)
    expected = []
    for row, label in zip(logits, labels, strict=True):
        margins = [row[c] if c == label else -row[c] for c in range(7)]
        expected.append(sum((1 - margin) ** 2 for margin in margins if margin < 1))
    found = train.square_hinge(jnp.float32(logits), jnp.asarray(labels))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("logits", "loss"),
    [
        ([1.0, -1.0, -1.0], 0.0),  # all margins are met
        ([5.0, -9.0, -1.0], 0.0),
        ([0.0, 0.0, 0.0], 3.0),
        ([-1.0, 1.0, 0.5], 4 + 4 + 2.25),
    ],
)
def test_square_hinge_by_hand(logits, loss):
    value, gradient = jax.value_and_grad(lambda x: train.square_hinge(x, jnp.array([0])).sum())(jnp.array([logits]))
    assert float(value) == pytest.approx(loss)
    signs = np.array([1.0, -1.0, -1.0])
    np.testing.assert_allclose(gradient[0], -2 * signs * np.maximum(0, 1 - signs * np.array(logits)), atol=1e-6)


def test_objective_names_the_loss_from_the_labels():
    teacher = jax.random.normal(jax.random.key(5), (60, 4))
    given, still = examples(teacher), optax.sgd(0.0)
    hinge = trained(RECIPES["dense"], 1, train.Objective(labels="square-hinge"), given, still, 60)[0][0]
    soft = trained(RECIPES["dense"], 1, train.Objective(1.0, 2.0), given, still, 60)[0][0]
    mixed = trained(RECIPES["dense"], 1, train.Objective(0.3, 2.0, "square-hinge"), given, still, 60)[0][0]
    by_hand = train.square_hinge(build.predictor(SPEC, 4)(params(), given.images), given.labels).mean()
    assert hinge == pytest.approx(float(by_hand), rel=1e-5)
    assert mixed == pytest.approx(0.7 * hinge + 0.3 * soft, rel=1e-5)


# Batch normalization.

NORMED = config.MLP((8,), norm=True)


def normed_params(seed=1):
    return joined(build.model(NORMED, 4).init(jax.random.key(seed), jnp.zeros((1, 4, 4, 1))))


def trained_with_norm(optimiser, epochs, batch, recipe=None, params=None):
    recipe = recipe or jc.chain()
    outputs = Counted(build.trainer(NORMED, 4))
    program = train.epoch_program(outputs, optimiser, recipe, train.Objective(), batch)
    before = train.begin(on_weights(recipe.init, params or normed_params()), optimiser)
    made = traced_once(outputs, train.epochs(program, before, examples(), jax.random.key(2), 1, epochs))
    return before, made[-1][1], [loss for _, _, loss in made]


def test_running_statistics_are_those_of_the_batches():
    """In whole batches and with weights that stand still the recursion has a closed form."""
    before, after, _ = trained_with_norm(optax.sgd(0.0), 3, 60)
    params = train.params_of(before)
    x = np.float64(examples().images).reshape(60, 16) / 255
    for layer in ("fc1", "fc2"):
        x = x @ np.float64(params[layer]["kernel"])
        mean, var = x.mean(0), x.var(0)
        found = after.statistics["batch_stats"][f"{layer}_norm"]
        np.testing.assert_allclose(found["mean"], (1 - 0.85**3) * mean, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found["var"], 0.85**3 + (1 - 0.85**3) * var, rtol=1e-4, atol=1e-6)
        x = np.maximum((x - mean) / np.sqrt(var + 1e-4), 0)


def test_a_step_is_down_the_gradient_through_the_statistics_of_the_batch():
    before, after, _ = trained_with_norm(optax.sgd(0.1), 1, 60)
    weights, statistics = split(train.params_of(before))
    given, model = examples(), build.model(NORMED, 4)

    def loss(weights):
        x = build.scaled(given.images)
        logits, _ = model.apply({"params": weights, **statistics}, x, train=True, mutable=["batch_stats"])
        return -jnp.mean(jnp.sum(jax.nn.log_softmax(logits) * jax.nn.one_hot(given.labels, 4), axis=1))

    expected = jax.tree.map(lambda w, g: w - 0.1 * g, weights, jax.grad(loss)(weights))
    found, _ = split(train.params_of(after))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected)


def test_optimisers_see_no_statistics():
    decaying = optax.adamw(0.0, weight_decay=0.9)
    before, after, _ = trained_with_norm(decaying, 1, 20)
    weights, _ = split(train.params_of(before))
    assert len(jax.tree.leaves(before.opt_state)) == 2 * len(jax.tree.leaves(weights)) + 1  # moments, and a counter
    for a, b in zip(jax.tree.leaves(before.trainable), jax.tree.leaves(after.trainable), strict=True):
        np.testing.assert_array_equal(a, b)
    moved = jax.tree.map(lambda a, b: bool(np.any(np.asarray(a) != np.asarray(b))), before.statistics, after.statistics)
    assert all(jax.tree.leaves(moved))


def test_recipes_see_no_statistics():
    recipe = jc.chain(jc.quantize.weights(".*", 4, granularity="tensor"))  # whatever there is
    before, after, losses = trained_with_norm(optax.adam(0.01), 10, 20, recipe)
    assert losses[-1] < losses[0]
    for state in (before, after):
        params = train.params_of(state)
        assert all(
            isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params["batch_stats"], is_leaf=is_compressed)
        )
        assert is_compressed(params["fc1"]["kernel"]) and is_compressed(params["fc1_norm"]["scale"])


@pytest.mark.parametrize("method", ["deterministic", "stochastic", "ternary"])
def test_low_bit_weights_learn_under_normalization(method):
    recipe = {
        "deterministic": jc.quantize.binary("fc./kernel"),
        "stochastic": jc.quantize.binary("fc./kernel", stochastic=True),
        "ternary": jc.quantize.ternary("fc./kernel"),
    }[method]
    _, after, losses = trained_with_norm(optax.adam(0.01), 30, 20, recipe)
    assert losses[-1] < 0.8 * losses[0]
    values = np.unique(np.asarray(jc.pack(train.params_of(after))["fc1"]["kernel"].dense()))
    assert len(values) == (3 if method == "ternary" else 2)


def test_diverged_training_is_stopped():
    with pytest.raises(FloatingPointError, match="the loss of epoch 1 is nan.*lower the learning rate"):
        trained(RECIPES["dense"], optimiser=optax.sgd(float("nan")), epochs=3)
