"""Holds every loss of distillation to its precision, to finite slopes where nothing varies, and to its padding."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import distill
from jaxcompress.distill import data_free, online

BATCH, CLASSES = 6, 5
COUNTS = np.array([True, True, False, True, False, True])
LABELS = np.array([0, 2, 1, 4, 3, 2])
LOGITS, EMBEDDINGS, MAPS, TOKENS = (BATCH, CLASSES), (BATCH, 4), (BATCH, 4, 4, 3), (BATCH, 3, 4)
KEY = jax.random.key(0)
ALL = jnp.ones(BATCH, bool)
# Parameters in the dtype of the features, of values that every dtype has.
WIDE = lambda tree, x: jax.tree.map(lambda p: p.astype(jnp.bfloat16).astype(x.dtype), tree)
HEAD = distill.variational(KEY, 3, 3)
ENCODER = distill.paraphraser(KEY, 3)
FUSIONS = distill.fusions(KEY, [3, 3], [3, 3], width=3)
BANK = distill.memory(KEY, BATCH, 4)
RUNNING = {"bn": (jnp.full(3, 0.5), jnp.full(3, 2.0))}


def crd(student, teacher, rows, where):
    others = jnp.asarray((np.arange(BATCH)[:, None] + [1, 2]) % BATCH)[rows]
    return distill.crd(WIDE(BANK, student), student, teacher, rows, others, where=where)[0]


def normalization(student, teacher, rows, where):
    return data_free.normalization(data_free.statistics({"bn": student}, where=where), WIDE(RUNNING, student))


def of_pair(loss):
    return lambda student, teacher, rows, where: loss(student, teacher, where=where)


def of_labels(loss):
    labels = lambda rows, where: jnp.where(True if where is None else where, jnp.asarray(LABELS)[rows], -100)
    return lambda student, teacher, rows, where: loss(student, teacher, labels(rows, where), where=where)


def of_student(loss):
    return lambda student, teacher, rows, where: loss(student, where=where)


LOSSES = {
    "kd": (LOGITS, of_pair(distill.kd)),
    "standardized": (LOGITS, lambda s, t, rows, w: distill.kd(*(distill.standardized(x, where=w) for x in (s, t)))),
    "dkd": (LOGITS, of_labels(distill.dkd)),
    "dist": (LOGITS, of_pair(distill.dist)),
    "nkd": (LOGITS, of_labels(distill.nkd)),
    "teacher_free": (LOGITS, of_labels(lambda s, t, labels, where: distill.teacher_free(s, labels, where=where))),
    "hint": (TOKENS, of_pair(distill.hint)),
    "attention": (MAPS, of_pair(distill.attention)),
    "fsp": (MAPS, lambda s, t, rows, w: distill.fsp((s, s[:, ::2, ::2]), (t, t[:, ::2, ::2]), where=w)),
    "nst": (MAPS, of_pair(distill.nst)),
    "vid": (MAPS, lambda s, t, rows, w: distill.vid(WIDE(HEAD, s), s, t, where=w)),
    "activation_boundary": (TOKENS, of_pair(distill.activation_boundary)),
    "overhaul": (MAPS, lambda s, t, rows, w: distill.overhaul(s, t, jnp.full(3, -0.5, s.dtype), where=w)),
    "hierarchical": (MAPS, of_pair(distill.hierarchical)),
    "factor_transfer": (MAPS, of_pair(distill.factor_transfer)),
    "reconstruction": (MAPS, lambda s, t, rows, w: distill.reconstruction(WIDE(ENCODER, s), s, where=w)),
    "review": (MAPS, lambda s, t, rows, w: distill.review(WIDE(FUSIONS, s), [s, s[:, ::2, ::2]], [t, t], where=w)),
    "rkd_distance": (EMBEDDINGS, of_pair(distill.rkd_distance)),
    "rkd_angle": (EMBEDDINGS, of_pair(distill.rkd_angle)),
    "similarity": (EMBEDDINGS, of_pair(distill.similarity)),
    "correlation_congruence": (EMBEDDINGS, of_pair(distill.correlation_congruence)),
    "pkt": (EMBEDDINGS, of_pair(distill.pkt)),
    "crd": (EMBEDDINGS, crd),
    "in_batch": (EMBEDDINGS, of_pair(distill.in_batch)),
    "mutual": (LOGITS, lambda s, t, rows, w: online.mutual([s, t], where=w)[:1]),
    "ensemble": (LOGITS, lambda s, t, rows, w: online.ensemble(s[:, :2], [s, t], where=w)[:1]),
    "own_teacher": (LOGITS, lambda s, t, rows, w: online.own_teacher([s, t], where=w)),
    "statistics": (MAPS, normalization),
    "total_variation": (MAPS, of_student(data_free.total_variation)),
    "competition": (LOGITS, of_pair(data_free.competition)),
    "one_hot": (LOGITS, of_student(data_free.one_hot)),
    "activation": (MAPS, of_student(data_free.activation)),
    "balance": (LOGITS, of_student(data_free.balance)),
    "disagreement": (LOGITS, of_pair(data_free.disagreement)),
}
LAYERS = {"connect", "translated"}  # no losses, but of a batch
every_loss = pytest.mark.parametrize(("shape", "loss"), LOSSES.values(), ids=LOSSES)


def drawn(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@functools.cache
def value_and_slope(loss, counted=BATCH):
    """Returns the compiled losses and the slope of their sum by the student's array, by one program for each dtype."""
    rows = jnp.arange(BATCH) if counted == BATCH else jnp.flatnonzero(COUNTS)

    def added(student, teacher, where):
        losses = loss(student, teacher, rows, where)
        return losses.sum(), losses

    @jax.jit
    def function(student, teacher, where):
        slope, losses = jax.grad(added, has_aux=True)(student, teacher, where)
        return losses, slope

    return function if counted == BATCH else functools.partial(function, where=None)


def test_every_loss_with_padding_is_held():
    modules = (distill, online, data_free)
    functions = {name: f for module in modules for name, f in vars(module).items() if inspect.isfunction(f)}
    own = {name for name, f in functions.items() if f.__module__.startswith("jaxcompress.distill") and name[0] != "_"}
    padded = {name for name in own if "where" in inspect.signature(functions[name]).parameters}
    helpers = {"divergence", "unpadded", "zeroed", "mean", "in_float32"}
    assert padded - LAYERS - helpers == set(LOSSES)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@every_loss
@pytest.mark.sampled(3)
def test_half_precision_is_computed_in_float32(shape, loss, dtype):
    compiled = value_and_slope(loss)
    narrow = [jnp.asarray(drawn(shape, seed), dtype) for seed in (0, 1)]
    losses, slope = compiled(*narrow, ALL)
    expected, wide_slope = compiled(*(x.astype(jnp.float32) for x in narrow), ALL)
    assert losses.dtype == jnp.float32 and slope.dtype == dtype
    np.testing.assert_allclose(losses, expected, rtol=2e-6, atol=1e-6)
    tolerance = float(jnp.finfo(dtype).eps)
    scale = float(jnp.max(jnp.abs(wide_slope)))
    np.testing.assert_allclose(np.float32(slope), wide_slope, rtol=tolerance, atol=2 * tolerance * scale)


@every_loss
def test_float64_stays(shape, loss):
    with jax.enable_x64(True):
        losses = jax.eval_shape(
            lambda *pair: loss(*pair, jnp.arange(BATCH), None), *[jax.ShapeDtypeStruct(shape, jnp.float64)] * 2
        )
    assert losses.dtype == jnp.float64


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@every_loss
def test_values_and_slopes_are_finite_where_nothing_varies(shape, loss, dtype):
    compiled = value_and_slope(loss)
    some = drawn(shape, 1)
    flat = {
        "zeros": np.zeros(shape),
        "ones": np.ones(shape),
        "tenths": np.full(shape, 0.1),
        "rows alike": np.broadcast_to(drawn(shape)[:1], shape),
    }
    for name, student in flat.items():
        for teacher in (some, student):
            losses, slope = compiled(jnp.asarray(student, dtype), jnp.asarray(teacher, dtype), ALL)
            assert np.all(np.isfinite(losses)), f"{name}: {losses}"
            assert np.all(np.isfinite(np.float32(slope))), f"{name}: {slope}"


@every_loss
def test_padding_reaches_neither_losses_nor_slopes(shape, loss):
    student, teacher = drawn(shape), drawn(shape, 1)
    kept = value_and_slope(loss, COUNTS.sum())(student[COUNTS], teacher[COUNTS])
    student[~COUNTS], teacher[~COUNTS] = np.nan, np.inf
    losses, slope = value_and_slope(loss)(student, teacher, jnp.asarray(COUNTS))
    if losses.ndim:  # one number an example
        np.testing.assert_array_equal(losses[..., ~COUNTS], np.zeros_like(losses[..., ~COUNTS]))
        losses = losses[..., COUNTS]
    np.testing.assert_allclose(losses, kept[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(slope[~COUNTS], np.zeros_like(slope[~COUNTS]))
    np.testing.assert_allclose(slope[COUNTS], kept[1], rtol=1e-4, atol=1e-5)


@every_loss
def test_a_batch_of_padding_alone_costs_nothing(shape, loss):
    nothing = np.full(shape, np.nan, np.float32)
    losses, slope = value_and_slope(loss)(nothing, nothing, jnp.zeros(BATCH, bool))
    assert np.all(np.isfinite(losses))
    np.testing.assert_array_equal(slope, np.zeros(shape))


@pytest.mark.parametrize("where", [jnp.ones(BATCH, jnp.int32), jnp.ones(BATCH - 1, bool)], ids=["integers", "shorter"])
@every_loss
def test_what_says_where_must_be_booleans_of_the_batch(shape, loss, where):
    student, teacher = jnp.asarray(drawn(shape)), jnp.asarray(drawn(shape, 1))
    if where.shape != (BATCH,) and loss.__qualname__.startswith("of_labels"):
        return  # the labels are made with it here
    with pytest.raises(ValueError, match=r"where is .*; it must be boolean, true where it counts, \(6,\)"):
        loss(student, teacher, jnp.arange(BATCH), where)


def test_padded_tokens_are_left_out_of_the_mean_of_their_example():
    student, teacher = drawn(TOKENS), drawn(TOKENS, 1)
    where = np.arange(3)[None] < np.array([3, 2, 1, 0, 3, 2])[:, None]
    expected = [np.mean(np.square(s - t)[w]) if w.any() else 0 for s, t, w in zip(student, teacher, where, strict=True)]
    student[~where] = np.nan
    np.testing.assert_allclose(distill.hint(student, teacher, where=jnp.asarray(where)), expected, rtol=1e-5)


def test_padded_labels_of_a_sequence_cost_nothing_without_a_mask_too():
    student, teacher = jnp.asarray(drawn((2, 3, 5))), jnp.asarray(drawn((2, 3, 5), 1))
    labels = jnp.array([[1, -100, 4], [-100, 0, 2]])
    for loss in (distill.dkd, distill.nkd):
        losses, slope = jax.value_and_grad(lambda s, loss=loss: loss(s, teacher, labels).sum())(student)
        by_mask = loss(student, teacher, jnp.maximum(labels, 0), where=labels >= 0)
        np.testing.assert_allclose(losses, by_mask.sum(), rtol=1e-6)
        np.testing.assert_array_equal(by_mask == 0, labels < 0)
        np.testing.assert_array_equal(np.any(slope != 0, axis=-1), labels >= 0)


@pytest.mark.parametrize("label", [-1, 5])
def test_a_label_of_no_class_is_refused_and_in_a_traced_call_not_a_number(label):
    logits, labels = jnp.asarray(drawn((2, 5))), jnp.array([1, label])
    for loss in (distill.dkd, distill.nkd, lambda s, t, labels: distill.teacher_free(s, labels)):
        with pytest.raises(ValueError, match=f"label {label} is none of the 5 classes, 0 to 4"):
            loss(logits, logits, labels)
        traced = jax.jit(loss)(logits, logits, labels)
        assert np.isfinite(traced[0]) and np.isnan(traced[1])


def test_the_memory_is_not_moved_by_padding():
    student, teacher = jnp.asarray(drawn(EMBEDDINGS)), jnp.asarray(drawn(EMBEDDINGS, 1))
    chosen = jnp.where(jnp.asarray(COUNTS), jnp.arange(BATCH), 0)  # padding repeats an index that counts
    others = jnp.ones((BATCH, 2), int)
    _, moved = distill.crd(BANK, student, teacher, chosen, others, where=jnp.asarray(COUNTS))
    _, expected = distill.crd(BANK, student[COUNTS], teacher[COUNTS], chosen[COUNTS], others[COUNTS])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), moved, expected)


def test_a_memory_of_half_precision_stays_one():
    bank = distill.Memory(*(x.astype(jnp.bfloat16) for x in BANK[:2]), *BANK[2:])
    x = jnp.asarray(drawn(EMBEDDINGS), jnp.bfloat16)
    losses, moved = distill.crd(bank, x, x, jnp.arange(BATCH), jnp.ones((BATCH, 2), int))
    assert losses.dtype == jnp.float32 and moved.student.dtype == moved.teacher.dtype == jnp.bfloat16
    assert moved.student_constant.dtype == jnp.float32


def test_a_vocabulary_is_added_up_in_float32():
    student, teacher = (jnp.asarray(3 * drawn((4, 32000), seed), jnp.bfloat16) for seed in (0, 1))
    q, p = (np.asarray(x, np.float64) for x in (student, teacher))
    log_q, log_p = (x - np.log(np.sum(np.exp(x), axis=1, keepdims=True)) for x in (q, p))
    expected = np.sum(np.exp(log_p) * (log_p - log_q), axis=1)
    np.testing.assert_allclose(distill.kd(student, teacher, 1.0), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: distill.dist(jnp.zeros((2, 3, 5)), jnp.zeros((2, 3, 5))), r"\(2, 3, 5\) are not \(batch, classes\)"),
        (lambda: distill.dist(jnp.zeros(5), jnp.zeros(5)), r"logits \(5,\) are not \(batch, classes\)"),
        (lambda: distill.dist(jnp.zeros((2, 1)), jnp.zeros((2, 1))), r"logits \(2, 1\) are not .* with 2 classes"),
        (lambda: distill.dkd(*[jnp.zeros((2, 1))] * 2, jnp.zeros(2, int)), r"logits \(2, 1\) .* 2 classes or more"),
        (lambda: distill.nkd(*[jnp.zeros((2, 1))] * 2, jnp.zeros(2, int)), r"logits \(2, 1\) .* 2 classes or more"),
        (lambda: distill.teacher_free(jnp.zeros((2, 1)), jnp.zeros(2, int)), r"logits \(2, 1\) .* 2 classes or more"),
        (lambda: distill.kd(jnp.zeros((2, 0)), jnp.zeros((2, 0))), r"logits \(2, 0\) .* 1 classes or more"),
        (lambda: distill.kd(jnp.zeros(()), jnp.zeros(())), r"logits \(\) .* 1 classes or more"),
        (lambda: distill.in_batch(*[jnp.zeros((2, 3, 4))] * 2), r"embeddings \(2, 3, 4\) are not \(batch, features\)"),
        (lambda: distill.hint(jnp.zeros(3), jnp.zeros(3)), r"features \(3,\) are not \(batch, ..., channels\)"),
        (lambda: data_free.competition(*[jnp.zeros((2, 3, 4))] * 2), r"logits \(2, 3, 4\) are not \(batch, classes\)"),
        (lambda: data_free.total_variation(jnp.zeros((2, 3, 4))), r"features \(2, 3, 4\) are no maps"),
        (lambda: online.gated(jnp.zeros((3, 2)), [jnp.zeros((2, 4))] * 2), r"gate \(3, 2\) does not weigh 2 branches"),
        (lambda: distill.margins(jnp.zeros(3), jnp.zeros(2)), r"scales \(3,\) and biases \(2,\) are not one for each"),
    ],
)
def test_shapes_without_a_meaning_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_margin_of_a_channel_of_scale_zero_is_what_is_negative_of_its_bias():
    margins, slope = jax.jvp(lambda s: distill.margins(s, jnp.array([-0.5, 0.0, 2.0])), (jnp.zeros(3),), (jnp.ones(3),))
    np.testing.assert_array_equal(margins, [-0.5, 0, 0])
    assert np.all(np.isfinite(slope))
