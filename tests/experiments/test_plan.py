"""A stage begins with what its recipe makes of the parameters before it, or of those that it rewinds to."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcompress as jc
from experiments import build, config, data, runs, scoring
from jaxcompress.arrays import Masked, dense, is_compressed
from tests.experiments.test_runs import DENSE

KERNELS = "fc./kernel"


pytestmark = pytest.mark.usefixtures("promotion")


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return runs.Settings(tmp_path_factory.getbasetemp() / "shared" / "runs", None, "disabled")


def begun(stages, settings):
    """Returns the parameters at the start of the last of some stages after DENSE, in the form of training."""
    experiment = replace(DENSE, stages=(*DENSE.stages, *stages))
    _, state = runs.start(experiment, runs.dataset(DENSE.data, None), settings)
    return jc.combine(state.trainable, state.fixed)


def magnitude(name, sparsity, **fields):
    return config.Stage(name, 0, recipe=(config.Magnitude("fc1/kernel", sparsity),), **fields)


def test_a_ticket_has_the_masks_of_what_was_trained_and_the_weights_of_the_start(settings):
    dataset = runs.dataset(DENSE.data, None)
    trained, first = runs.run(DENSE, settings).params(), build.initial_params(DENSE, dataset)
    found = begun([magnitude("ticket", 0.75, rewind="initial")], settings)
    kept = np.sort(np.abs(trained["fc1"]["kernel"]).reshape(-1))[-(found["fc1"]["kernel"].size // 4) :]
    mask = np.abs(trained["fc1"]["kernel"]) >= kept[0]
    np.testing.assert_array_equal(found["fc1"]["kernel"].mask, mask)
    np.testing.assert_array_equal(dense(found["fc1"]["kernel"]), np.where(mask, first["fc1"]["kernel"], 0))
    np.testing.assert_array_equal(dense(found["fc2"]["kernel"]), first["fc2"]["kernel"])


def test_weights_may_rewind_to_a_stage_or_be_drawn_anew(settings):
    dataset = runs.dataset(DENSE.data, None)
    first = build.initial_params(DENSE, dataset)["fc2"]["kernel"]
    trained = runs.run(DENSE, settings).params()["fc2"]["kernel"]
    to_stage = begun([magnitude("late", 0.5, rewind=DENSE.stages[-1].name)], settings)["fc2"]["kernel"]
    np.testing.assert_array_equal(to_stage, trained)
    drawn = begun([magnitude("control", 0.5, rewind="random")], settings)["fc2"]["kernel"]
    assert not np.any(drawn == first) and not np.any(drawn == trained)


def test_what_was_removed_in_one_round_stays_removed_in_the_next(settings):
    rounds = [magnitude(f"round {i}", 1 - 0.5**i, rewind="initial") for i in (1, 2, 3)]
    masks = [begun(rounds[:i], settings)["fc1"]["kernel"].mask for i in (1, 2, 3)]
    sizes = [int(mask.sum()) for mask in masks]
    assert sizes == [masks[0].size // 2, masks[0].size // 4, masks[0].size // 8]
    assert not np.any(masks[1] & ~masks[0]) and not np.any(masks[2] & ~masks[1])


@pytest.mark.parametrize("score", ["snip", "grasp", "synflow", "magnitude", "random"])
def test_connections_are_scored_on_training_images_before_training(settings, score):
    technique = config.Connections(KERNELS, 0.8, score, examples=50)
    experiment = replace(DENSE, stages=(config.Stage("sparse", 0, recipe=(technique,)),))
    plan, state = runs.start(experiment, runs.dataset(DENSE.data, None), settings)
    masks = [leaf.mask for leaf in masked(state)]
    size = sum(mask.size for mask in masks)
    assert sum(int(mask.sum()) for mask in masks) == size - round(0.8 * size)
    assert int(plan.begin(build.initial_params(experiment, runs.dataset(DENSE.data, None)), None).step) == 0


def test_snip_is_gradient_times_weight_on_the_images_drawn():
    dataset = runs.dataset(DENSE.data, None)
    params = build.initial_params(DENSE, dataset)
    found = scoring.scores(config.Connections(KERNELS, 0.5, examples=30), DENSE, dataset, params)
    examples = data.drawn(dataset.train, 30, DENSE.seed)
    module = build.model(DENSE.model, dataset.classes)

    def loss(params):
        logits = module.apply({"params": params}, examples.images.astype(np.float32) / 255)
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(examples.labels)).mean()

    grads = jax.grad(loss)(params)
    products = {f"{name}/kernel": np.abs(grads[name]["kernel"] * params[name]["kernel"]) for name in ("fc1", "fc2")}
    total = sum(product.sum() for product in products.values())
    for path, product in products.items():
        np.testing.assert_allclose(found[path], product / total, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("name", ["later", "nowhere"])
def test_a_stage_rewinds_only_to_one_before_it(name):
    stages = (config.Stage("one", 1), config.Stage("two", 1, rewind=name), config.Stage("later", 1))
    words = f"stage 'two' rewinds to '{name}'; a later stage can, to one of initial, random, one"
    with pytest.raises(ValueError, match=words):
        replace(DENSE, stages=stages)


@pytest.mark.parametrize("method", ["rigl", "set"])
def test_dynamic_sparse_training_keeps_counts_and_moves_weights(settings, method):
    technique = config.Dynamic(KERNELS, 0.8, 2.0, method, every=4)
    experiment = replace(DENSE, stages=(config.Stage("dynamic", 2, 50, recipe=(technique,)),))
    plan, state = runs.start(experiment, runs.dataset(DENSE.data, None), settings)
    before = [leaf.mask for leaf in masked(state)]
    after, _ = plan.program(state, plan.examples, jax.random.key(0))
    moved = [leaf.mask for leaf in masked(after)]
    assert [int(m.sum()) for m in moved] == [int(m.sum()) for m in before]
    assert any(np.any(new != old) for new, old in zip(moved, before, strict=True))
    momentum = {leaf.shape: leaf for leaf in jax.tree.leaves(after.opt_state)}
    for leaf in masked(after):
        assert np.any(momentum[leaf.shape]) and not np.any(np.where(leaf.mask, 0, momentum[leaf.shape]))


def test_a_later_stage_prunes_connections_further(settings):
    stages = [
        config.Stage(f"{sparsity:g}", 0, recipe=(config.Connections(KERNELS, sparsity, "random"),))
        for sparsity in (0.5, 0.9)
    ]
    dense = begun(stages, settings)
    kernels = [jc.densify(dense)[name]["kernel"] for name in ("fc1", "fc2")]
    size = sum(kernel.size for kernel in kernels)
    assert sum(int(np.count_nonzero(kernel)) for kernel in kernels) == size - round(0.9 * size)


def test_channels_that_left_are_not_rewound():
    stages = (config.Stage("one", 1, remove=config.Removal(sparsity=0.5)), config.Stage("two", 1, rewind="one"))
    with pytest.raises(ValueError, match="an experiment that removes channels cannot rewind"):
        replace(DENSE, stages=stages)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "a removal needs one of them"),
        ({"sparsity": 0.5, "macs": 0.5}, "a removal needs one of them"),
        ({"macs": 1.0}, "macs=1.0 is not a fraction"),
        ({"sparsity": 1.0}, "sparsity=1.0 of channels is not in"),
        ({"sparsity": 0.5, "round_to": 0}, "round_to=0, examples=1000: both are at least 1"),
    ],
)
def test_a_removal_that_makes_no_sense_is_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        config.Removal(**fields)


@pytest.mark.parametrize("score", ["l1", "l2", "fpgm", "taylor", "random"])
def test_channels_leave_at_the_start_of_a_stage(settings, score):
    spec = config.Removal(score, sparsity=0.5, members="fc1/kernel:1", examples=50)
    found = begun([config.Stage("small", 0, remove=spec)], settings)
    assert found["fc1"]["kernel"].weight.shape == (64, 8) and found["fc2"]["kernel"].weight.shape == (8, 10)


def masked(state):
    leaves = jax.tree.leaves(jc.combine(state.trainable, state.fixed), is_leaf=is_compressed)
    return [leaf for leaf in leaves if isinstance(leaf, Masked)]


# Starting from another experiment

SOURCE = replace(DENSE, data=replace(DENSE.data, labels=300))


def transferred(head="fc2/.*", source=SOURCE, **fields):
    stage = config.Stage("tuned", 1, 20, config.Optimiser("sgd", 0.1, **fields))
    return config.Experiment(DENSE.data, DENSE.model, (stage,), seed=3, transfer=config.Transfer(source, head))


def test_a_transfer_starts_from_its_source_but_for_the_head(settings):
    experiment = transferred()
    dataset = runs.dataset(DENSE.data, None)
    _, state = runs.start(experiment, dataset, settings)
    begun, source = jc.combine(state.trainable, state.fixed), runs.run(SOURCE, settings).params()
    own = build.random_params(experiment, dataset, "init")
    np.testing.assert_array_equal(begun["fc1"]["kernel"], source["fc1"]["kernel"])
    np.testing.assert_array_equal(begun["fc2"]["kernel"], own["fc2"]["kernel"])
    assert np.any(np.asarray(begun["fc2"]["kernel"]) != np.asarray(source["fc2"]["kernel"]))


def test_what_is_frozen_stays_and_what_is_slower_moves_less(settings):
    rates = (config.Rate("fc1/bias", 0.5), config.Rate("fc1", 0.0), config.Rate("fc2/.*", 1.0))
    frozen = transferred(rates=(config.Rate("fc1/.*", 0.0),))
    source = runs.run(SOURCE, settings).params()
    made = runs.run(frozen, settings).params()
    np.testing.assert_array_equal(made["fc1"]["kernel"], source["fc1"]["kernel"])
    np.testing.assert_array_equal(made["fc1"]["bias"], source["fc1"]["bias"])
    assert np.any(np.asarray(made["fc2"]["bias"]) != 0)
    params = {"fc1": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}, "fc2": {"kernel": jnp.ones(2)}}
    with pytest.raises(ValueError, match="pattern 'fc1' matches no parameter"):
        build.optimiser(config.Optimiser("sgd", 0.1, rates=rates), 5).init(params)
    slower = build.optimiser(config.Optimiser("sgd", 0.1, "constant", rates=(rates[0], config.Rate("fc1/.*", 0.0))), 5)
    updates, _ = slower.update(params, slower.init(params), params)
    np.testing.assert_allclose(updates["fc1"]["bias"], -0.05 * jnp.ones(2))
    np.testing.assert_array_equal(updates["fc1"]["kernel"], jnp.zeros(2))
    np.testing.assert_allclose(updates["fc2"]["kernel"], -0.1 * jnp.ones(2))


def test_the_rate_of_a_leaf_is_that_of_all_its_fields():
    params = jc.quantize.lsq("fc1/kernel", 4).init({"fc1": {"kernel": jnp.ones((2, 2))}})
    trainable, _ = jc.partition(params)
    frozen = build.optimiser(config.Optimiser("sgd", 0.1, rates=(config.Rate("fc1/kernel", 0.0),)), 5)
    slopes = jax.tree.map(jnp.ones_like, trainable)
    updates, _ = frozen.update(slopes, frozen.init(trainable), trainable)
    assert len(jax.tree.leaves(updates)) == 2 and not any(np.any(leaf) for leaf in jax.tree.leaves(updates))


def test_a_transfer_fits_its_source(settings):
    wide = replace(SOURCE, model=config.MLP((24,)))
    dataset = runs.dataset(DENSE.data, None)
    with pytest.raises(ValueError, match=r"transfer: fc1/\w+ has shape .*16.*, and .*24.* at its source"):
        runs.start(transferred(source=wide), dataset, settings)
    with pytest.raises(ValueError, match="pattern 'fc9' matches no parameter"):
        runs.start(transferred(head="fc9"), dataset, settings)
    published = config.Pretrained("lc-lenet300/lenet300_classic.pklz")
    with pytest.raises(ValueError, match="not from both"):
        replace(transferred(), pretrained=published)
    with pytest.raises(ValueError, match="factor=-1.0 is at least 0"):
        config.Rate("fc1/.*", -1.0)
