"""An epoch is one program, traced once; only what may be trained is moved."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcompress as jc
from experiments import build, config, train


@pytest.fixture(autouse=True)
def promotion():
    """Optax promotes integers, in its schedules and in Adam."""
    with jax.numpy_dtype_promotion("standard"):
        yield


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


def trained(recipe, epochs=3, objective=None, given=None, optimiser=None, batch=20):
    """Returns the losses, the state before and after, and the program."""
    optimiser = optimiser or optax.adam(0.01)
    program = train.epoch_program(build.trainer(SPEC, 4), optimiser, recipe, objective or train.Objective(), batch)
    before = train.begin(recipe.init(params()), optimiser)
    made = list(train.epochs(program, before, given or examples(), jax.random.key(2), 1, epochs))
    assert [epoch for epoch, _, _ in made] == list(range(1, epochs + 1))
    return [loss for _, _, loss in made], before, made[-1][1], program


@pytest.mark.parametrize("name", RECIPES)
def test_epoch_is_traced_once_and_the_loss_falls(name):
    losses, before, after, program = trained(RECIPES[name], 10)
    assert program._cache_size() == 1
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
        return jnp.zeros((images.shape[0], 4)) + 0 * params["w"]

    program = train.epoch_program(logits, optax.sgd(0.1), jc.chain(), train.Objective(), 6)
    given = examples(size=20)._replace(images=jnp.arange(20, dtype=jnp.uint8).reshape(20, 1, 1, 1))
    begin = train.begin({"w": jnp.zeros(())}, optax.sgd(0.1))
    list(train.epochs(program, begin, given, jax.random.key(0), 1, 2))
    jax.effects_barrier()
    first, second = sum(seen[:3], []), sum(seen[3:], [])
    assert len(seen) == 6 and first != second
    for order in (first, second):  # every example once, but for the rest of 20 beyond 3 batches of 6
        assert len(set(order)) == 18


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


def test_diverged_training_is_stopped():
    with pytest.raises(FloatingPointError, match="the loss of epoch 1 is nan.*lower the learning rate"):
        trained(RECIPES["dense"], optimiser=optax.sgd(float("nan")), epochs=3)
