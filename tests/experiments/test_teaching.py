"""Lessons are the losses of the library, with what they train and carry; a stage learns from them."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import build, config, evaluate, rehearsal, runs, teachers, teaching
from jaxcompress import distill
from tests.experiments.test_runs import DENSE

BATCH = 8


def maps(size, channels, seed):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((BATCH, size, size, channels)), jnp.float32)


def heard(seed, channels):
    logits = jnp.asarray(np.random.default_rng(seed).standard_normal((BATCH, 5)), jnp.float32)
    taps = {"early": maps(6, channels, seed + 1), "late": maps(3, 2 * channels, seed + 2)}
    return build.Heard(logits, taps)


LABELS = jnp.arange(20) % 5
BOTH = {"student": ("early", "late"), "teacher": ("early", "late")}
LATE = {"student": "late", "teacher": "late"}
KNOWLEDGE = [
    *(config.KD(), config.DKD(), config.DIST(), config.NKD(), config.StandardizedKD(), config.TeacherFree()),
    *(config.Features(loss, **BOTH) for loss in ("hint", "attention", "nst", "vid", "activation-boundary")),
    *(config.Features(loss, **BOTH) for loss in ("overhaul", "factor-transfer", "review")),
    *(config.Relations(loss, **LATE) for loss in ("rkd-distance", "rkd-angle", "similarity")),
    *(config.Relations(loss, **LATE) for loss in ("correlation-congruence", "pkt")),
    *(config.Contrast(loss, **LATE, features=6, negatives=4) for loss in ("crd", "in-batch")),
    *(config.Mutual((config.MLP((6,)), config.MLP((7,), norm=True))), config.Branches("early")),
    config.Exits(("early",), "late"),
]


pytestmark = pytest.mark.usefixtures("promotion")


def batch(student_channels=4, teacher_channels=6):
    student, teacher = heard(0, student_channels), heard(10, teacher_channels)
    images = jnp.asarray(np.random.default_rng(3).integers(0, 256, (BATCH, 4, 4, 1), np.uint8))
    return teaching.Batch(images, student, teacher, LABELS[:BATCH], jnp.arange(BATCH), jax.random.key(0))


def kind(spec):
    return getattr(spec, "loss", type(spec).__name__)


@pytest.mark.parametrize("spec", [*KNOWLEDGE, config.Features("fsp", **BOTH)], ids=kind)
@pytest.mark.sampled(3)
def test_every_lesson_has_a_slope_in_what_the_student_says_and_none_in_the_teacher(spec):
    given = batch(4, 4) if kind(spec) == "fsp" else batch()
    lessons = teaching.Lessons.of([spec])
    learned, kept = lessons.begin(jax.random.key(1), given, LABELS)

    def mean(student, teacher, learned):
        losses, after = lessons.loss(learned, kept, given._replace(student=student, teacher=teacher))
        assert losses.shape == (BATCH,) and jax.tree.structure(after) == jax.tree.structure(kept)
        return losses.mean()

    slopes = jax.jit(jax.grad(mean, argnums=(0, 1, 2)))(given.student, given.teacher, learned)
    sizes = [sum(float(jnp.sum(jnp.abs(leaf))) for leaf in jax.tree.leaves(tree)) for tree in slopes]
    assert np.isfinite(sizes).all() and sizes[0] > 0 and sizes[1] == 0
    assert (sizes[2] > 0) == bool(jax.tree.leaves(learned))


def test_lessons_are_weighed_and_added():
    specs = [config.DKD(weight=2.0), config.Relations("pkt", **LATE, weight=3.0)]
    lessons, given = teaching.Lessons.of(specs), batch()
    total, _ = lessons.loss(*lessons.begin(jax.random.key(1), given, LABELS), given)
    expected = 2 * distill.dkd(given.student.logits, given.teacher.logits, given.labels)
    expected += 3 * distill.pkt(given.student.taps["late"], given.teacher.taps["late"])
    np.testing.assert_allclose(total, expected, rtol=1e-5)


def test_the_same_lesson_twice_begins_from_two_draws():
    lesson = config.Features("hint", **BOTH)
    learned, _ = teaching.Lessons.of([lesson, lesson]).begin(jax.random.key(1), batch(), LABELS)
    kernels = [tree[0]["layer1"]["kernel"] for tree in learned.values()]
    assert not np.any(np.asarray(kernels[0]) == np.asarray(kernels[1]))


def test_the_memory_of_crd_moves_where_the_batch_is():
    lessons, given = teaching.Lessons.of([config.Contrast("crd", **LATE, features=6, negatives=4)]), batch()
    learned, kept = lessons.begin(jax.random.key(1), given, LABELS)
    _, after = lessons.loss(learned, kept, given)
    before, moved = (next(iter(tree.values()))["memory"] for tree in (kept, after))
    assert before.student.shape == (20, 6) and moved.student_constant > 0 > before.student_constant
    changed = np.any(np.asarray(before.student) != np.asarray(moved.student), axis=1)
    np.testing.assert_array_equal(changed, np.arange(20) < BATCH)


def test_a_paraphraser_is_trained_before_its_student():
    given = batch()
    _, kept = teaching.Lessons.of([config.Features("factor-transfer", ("late",), ("late",))]).begin(
        jax.random.key(1), given, LABELS
    )
    (encoder,) = next(iter(kept.values()))
    untrained = distill.paraphraser(jax.random.key(0), 12)["encoder"]
    assert jax.tree.structure(encoder) == jax.tree.structure(untrained)
    assert np.any(np.asarray(encoder["layer1"]["bias"]) != 0)  # drawn as zeros


def test_margins_are_the_mean_of_what_is_below_zero():
    given = batch()
    _, kept = teaching.Lessons.of([config.Features("overhaul", ("late",), ("late",))]).begin(
        jax.random.key(1), given, LABELS
    )
    values = np.asarray(given.teacher.taps["late"]).reshape(-1, 12)
    wanted = [column[column < 0].mean() for column in values.T]
    np.testing.assert_allclose(next(iter(kept.values()))[0], wanted, rtol=1e-5)


def only(tree):
    """Returns what the one lesson has."""
    (found,) = tree.values()
    return found


def test_peers_learn_from_their_labels_and_from_each_other():
    peers, given = (config.MLP((6,)), config.MLP((7,), norm=True)), batch()
    lessons = teaching.Lessons.of([config.Mutual(peers, weight=2.0)])
    learned, kept = lessons.begin(jax.random.key(1), given, LABELS)
    losses, after = lessons.loss(learned, kept, given)
    logits = [
        build.model(peer, 5).apply(
            {"params": weights, **statistics}, build.scaled(given.images), train=True, mutable=True
        )[0]
        for peer, weights, statistics in zip(peers, only(learned), only(kept), strict=True)
    ]
    expected = 2 * distill.online.mutual([given.student.logits, *logits]).sum(0)
    for each in logits:
        expected -= jax.nn.log_softmax(each)[jnp.arange(BATCH), given.labels]
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    moved, before = (only(tree)[1]["batch_stats"]["fc1_norm"]["mean"] for tree in (after, kept))
    assert only(kept)[0] == only(after)[0] == {} and np.any(np.asarray(moved) != np.asarray(before))


def test_branches_are_taught_by_their_gated_ensemble():
    given = batch()
    lessons = teaching.Lessons.of([config.Branches("early", branches=3, weight=0.0)])
    learned, kept = lessons.begin(jax.random.key(1), given, LABELS)
    assert len(only(learned)["branches"]) == 3 and only(learned)["gate"]["layer1"]["kernel"].shape == (4, 4)
    pooled = given.student.taps["early"].mean((1, 2))

    def left(params):
        hidden = distill.regress(params["layers"], given.student.taps["early"]).mean((1, 2))
        return distill.regress(params["classifier"], hidden)

    logits = [given.student.logits, *map(left, only(learned)["branches"])]
    gate = jax.nn.softmax(distill.regress(only(learned)["gate"], pooled))
    everyone = sum(gate[:, i, None] * each for i, each in enumerate(logits))
    expected = -sum(jax.nn.log_softmax(each)[jnp.arange(BATCH), given.labels] for each in (*logits[1:], everyone))
    np.testing.assert_allclose(lessons.loss(learned, kept, given)[0], expected, rtol=1e-4)
    weighed = teaching.Lessons.of([config.Branches("early", branches=3, weight=1.0)])
    more = weighed.loss(learned, kept, given)[0] - expected
    np.testing.assert_allclose(
        more, distill.online.ensemble(distill.regress(only(learned)["gate"], pooled), logits).sum(0), rtol=1e-3
    )


@pytest.mark.parametrize(("soft", "hint"), [(0.0, 0.0), (1.0, 0.0), (0.3, 2.0)])
def test_exits_are_taught_by_labels_by_the_end_and_by_its_features(soft, hint):
    given = batch()
    lessons = teaching.Lessons.of([config.Exits(("early",), "late", soft=soft, hint=hint)])
    learned, kept = lessons.begin(jax.random.key(1), given, LABELS)
    (params,) = only(learned)
    hidden = distill.regress(params["layers"], given.student.taps["early"]).mean((1, 2))
    logits = distill.regress(params["classifier"], hidden)
    of_labels = -jax.nn.log_softmax(logits)[jnp.arange(BATCH), given.labels]
    by_end = distill.kd(logits, given.student.logits, 3.0)
    apart = jnp.square(hidden - given.student.taps["late"].mean((1, 2))).mean(1)
    expected = (1 - soft) * of_labels + soft * by_end + hint * apart
    np.testing.assert_allclose(lessons.loss(learned, kept, given)[0], expected, rtol=1e-4, atol=1e-6)


def test_taps_are_named_once():
    specs = [config.Features("hint", **BOTH), config.Relations("pkt", "late", "end"), config.DKD()]
    assert teaching.tapped(specs) == (("early", "late"), ("early", "late", "end"))
    online = [config.Mutual((config.MLP(),)), config.Branches("early"), config.Exits(("early", "late"), "end")]
    assert teaching.tapped(online) == (("early", "late", "end"), ())


# In a stage


def taught(*knowledge, epochs=2, name="student", **distill_fields):
    stage = config.Stage(
        name, epochs, 20, config.Optimiser(learning_rate=3e-3), distill=config.Distill(DENSE, **distill_fields)
    )
    stage = replace(stage, distill=replace(stage.distill, knowledge=knowledge))
    return config.Experiment(DENSE.data, config.MLP((10,)), (stage,))


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return runs.Settings(tmp_path_factory.getbasetemp() / "shared" / "runs", None, "disabled")


MANY = (
    config.DKD(weight=0.1),
    config.Features("hint", ("fc1",), ("fc1",), weight=0.1),
    config.Contrast("crd", "fc1", "fc1", weight=0.02, features=8, negatives=8),
)


@pytest.mark.slow
def test_a_student_learns_from_lessons_and_what_is_killed_goes_on_to_the_same_bits(settings, monkeypatch):
    experiment = taught(*MANY, epochs=3)
    data = runs.dataset(experiment.data, None)
    built, state = runs.start(experiment, data, settings)
    learned = state.teaching.learned["2-features"][0]["layer1"]["kernel"]
    assert learned.shape[0] == 10
    after, _ = built.program(state, built.examples, built.key)
    moved = after.teaching.learned["2-features"][0]["layer1"]["kernel"]
    assert np.any(np.asarray(moved) != np.asarray(learned)) and set(built.handed_on(after)) == {"fc1", "fc2"}
    whole = runs.run(experiment, settings).metrics

    def killed(done, total, text):
        if "student" in text and done == 2:
            raise KeyboardInterrupt

    other = settings._replace(root=settings.root / "killed", checkpoint_seconds=0.0)
    with pytest.raises(KeyboardInterrupt):
        runs.run(experiment, other._replace(progress=killed))
    assert runs.run(experiment, other).metrics["params_sha256"] == whole["params_sha256"]


@pytest.mark.parametrize(
    "spec",
    [config.Mutual((config.MLP((6,)),)), config.Branches("fc1"), config.Exits(("fc1",), "fc1"), config.TeacherFree()],
    ids=kind,
)
def test_a_student_without_a_teacher_learns_from_what_is_trained_beside_it(settings, spec):
    stage = config.Stage("alone", 1, 20, distill=config.Distill(weight=0, knowledge=(spec,)))
    experiment = config.Experiment(DENSE.data, config.MLP((10,)), (stage,))
    built, state = runs.start(experiment, runs.dataset(experiment.data, None), settings)
    after, loss = built.program(state, built.examples, built.key)
    pairs = zip(jax.tree.leaves(state.teaching.learned), jax.tree.leaves(after.teaching.learned), strict=True)
    assert np.isfinite(float(loss)) and all(np.any(np.asarray(a) != np.asarray(b)) for a, b in pairs)
    assert set(built.handed_on(after)) == {"fc1", "fc2"}


def test_lessons_from_logits_hear_those_that_are_stored(settings, monkeypatch):
    experiment = taught(config.DKD(weight=0.1), epochs=1)
    data = runs.dataset(experiment.data, None)
    built, state = runs.start(experiment, data, settings)
    assert built.examples.teacher.shape == (len(data.train.labels), 10)
    stored, _ = built.program(state, built.examples, built.key)
    monkeypatch.setattr(teachers, "in_step", lambda stage: True)
    built, state = runs.start(experiment, data, settings)
    assert built.examples.teacher.shape == (len(data.train.labels), 0)
    in_step, _ = built.program(state, built.examples, built.key)
    np.testing.assert_allclose(stored.trainable["fc1"]["kernel"], in_step.trainable["fc1"]["kernel"], atol=1e-5)


@pytest.mark.parametrize("augment", [(), ("jitter",)])
def test_several_teachers_are_heard_as_the_mean_of_their_outputs(settings, augment):
    other = replace(DENSE, seed=1)
    experiment = taught(ensemble=(other,), temperature=2.0, epochs=1)
    experiment = replace(experiment, stages=(replace(experiment.stages[0], augment=augment),))
    data = runs.dataset(experiment.data, None)
    built, _ = runs.start(experiment, data, settings)
    params = [runs.run(each, settings).params() for each in (DENSE, other)]
    images = jnp.asarray(data.train.images[:9])
    alone = [build.predictor(DENSE.model, 10)(each, images) for each in params]
    mean = np.mean([jax.nn.softmax(logits / 2.0) for logits in alone], axis=0)
    said = teachers.heard(experiment, data, params)(images).logits if augment else built.examples.teacher[:9]
    assert built.examples.teacher.shape[1] == (0 if augment else 10)
    np.testing.assert_allclose(jax.nn.softmax(said / 2.0), mean, atol=1e-6)


def test_views_of_the_training_set_are_seen_in_turn_and_heard_once(settings):
    """A student that is its teacher, which was heard of the same images, has nothing to learn in any pass."""
    distilled = config.Distill(DENSE, temperature=1.0, weight=1.0, views=2)
    still = config.Optimiser("sgd", learning_rate=0.0)
    stage = config.Stage("student", 3, 20, still, distill=distilled, augment=("jitter",))
    experiment = config.Experiment(DENSE.data, DENSE.model, (stage,))
    data, params = runs.dataset(experiment.data, None), runs.run(DENSE, settings).params()
    built, _ = runs.start(experiment, data, settings)
    assert built.examples.teacher.shape == (len(data.train.labels), 2, 10)
    said = np.asarray(built.examples.teacher)
    assert np.any(said[:, 0] != said[:, 1]) and np.any(
        said[:, 0] != evaluate.predict(built.logits, params, data.train.images)
    )
    state = built.begin(params, None)
    for _ in range(3):
        state, loss = built.program(state, built.examples, built.key)
        assert abs(float(loss)) < 1e-5


def test_activations_of_views_are_not_kept(settings):
    knowledge = (config.Features("hint", ("fc1",), ("fc1",)),)
    stage = config.Stage("s", 1, 20, distill=config.Distill(DENSE, views=2, knowledge=knowledge), augment=("jitter",))
    experiment = config.Experiment(DENSE.data, DENSE.model, (stage,))
    with pytest.raises(ValueError, match="of 2 views logits are kept, not activations .'fc1',."):
        rehearsal.Rehearsal(lambda data: runs.dataset(data, None)).begin(experiment)


def test_what_names_or_bounds_the_weights_of_the_student_leaves_those_of_its_lessons_alone(settings):
    experiment = taught(config.Features("hint", ("fc1",), ("fc1",)), epochs=1)
    frozen = config.Optimiser(learning_rate=3e-3, max_norm=0.01, rates=(config.Rate("fc1/.*", 0.0),))
    experiment = replace(experiment, stages=(replace(experiment.stages[0], optimiser=frozen),))
    built, state = runs.start(experiment, runs.dataset(experiment.data, None), settings)
    after, _ = built.program(state, built.examples, built.key)
    before, moved = (s.teaching.learned["1-features"][0]["layer1"]["kernel"] for s in (state, after))
    assert np.any(np.asarray(before) != np.asarray(moved))
    assert np.linalg.norm(moved, axis=0).min() > 0.01
    np.testing.assert_array_equal(after.trainable["fc1"]["kernel"], state.trainable["fc1"]["kernel"])
    assert np.linalg.norm(after.trainable["fc2"]["kernel"], axis=0).max() <= 0.01 * (1 + 1e-5)


def test_a_transfer_set_has_some_classes_alone():
    data = runs.dataset(DENSE.data, None)
    logits = np.arange(len(data.train.labels), dtype=np.float32)[:, None]
    chosen, said = teachers.transfer_set(taught(classes=(3, 7)), data, logits)
    assert set(chosen.train.labels.tolist()) == {3, 7} and len(chosen.test.labels) == len(data.test.labels)
    np.testing.assert_array_equal(chosen.train.labels, data.train.labels[said[:, 0].astype(int)])
    whole, _ = teachers.transfer_set(taught(), data, logits)
    assert whole is data
    with pytest.raises(ValueError, match="transfer set: there is no class 10; there are 0 to 9"):
        teachers.transfer_set(taught(classes=(3, 10)), data, logits)


@pytest.mark.parametrize(
    ("knowledge", "message"),
    [
        (config.Features("hint", ("fc3",), ("fc1",)), r"there is no tap 'fc3' \(did you mean 'fc"),
        (config.Features("hint", ("fc1",), ("fc9",)), r"there is no tap 'fc9' \(did you mean 'fc"),
        (config.Features("attention", ("fc1",), ("fc1",)), r"features \(\d+, 10\) are no maps"),
        (config.Relations("pkt", "fc1", "nothing"), "there is no tap 'nothing'"),
    ],
)
def test_what_cannot_be_taught_is_found_before_training(knowledge, message):
    rehearse = rehearsal.Rehearsal(lambda data: runs.dataset(data, None)).begin
    with pytest.raises(ValueError, match=message):
        rehearse(taught(knowledge))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: config.Distill(DENSE, temperature=0.0), "temperature=0.0, weight=0.9; temperatures are above 0"),
        (lambda: config.Distill(DENSE, weight=1.5), "weights from 0 to 1"),
        (lambda: config.Features("hint", ("a", "b"), ("a",)), "2 features of the student, 1 of the teacher"),
        (lambda: config.Features("fsp", ("a",), ("a",)), "fsp: 1 features of the student"),
        (lambda: config.Contrast("crd", "a", "b", negatives=0), "negatives=0"),
        (
            lambda: config.Distill(),
            "without a teacher: weight=0.9, knowledge .., 0 more teachers; the weight is then 0",
        ),
        (lambda: config.Distill(weight=0, knowledge=(config.DKD(),)), "knowledge .'DKD'., 0 more"),
        (lambda: config.Distill(weight=0, ensemble=(DENSE,)), "1 more teachers"),
        (lambda: config.Distill(DENSE, views=-1), "views=-1, classes=.., 1 teachers; views are at least 0"),
        (
            lambda: config.Distill(DENSE, views=2, classes=(3,)),
            r"views=2, classes=.3., 1 teachers; views are at least 0",
        ),
        (lambda: config.Stage("s", 1, distill=config.Distill(DENSE, views=2)), "2 views of what nothing augments"),
        (lambda: config.Mutual(()), "there are no peers"),
        (lambda: config.Mutual((config.MLP(center=True),)), "a peer cannot have center"),
        (lambda: config.Branches("a", branches=0), "branches at 'a': branches=0"),
        (lambda: config.Exits((), "a"), "exits: at=.., .*there is at least one"),
        (lambda: config.Exits(("a",), "b", soft=1.5), "soft is from 0 to 1"),
    ],
)
def test_numbers_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
