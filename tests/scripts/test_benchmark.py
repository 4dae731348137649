import json
import math
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import (
    converters,
    decompositions,
    distilled,
    factorized,
    files,
    masks,
    peer,
    pruned,
    quantized,
    steps,
    swept,
    timing,
)
from jaxcompress.export import writer
from jaxcompress.export.litert import Latency
from jaxcompress.interpreters.integers import Layer
from scripts import benchmark
from tests.nets import grid, layer_model


def run(monkeypatch, tmp_path, *arguments) -> dict:
    path = tmp_path / "benchmark.json"
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *arguments, "--quick", "--json", str(path)])
    benchmark.main()
    found = json.loads(path.read_text())
    for row in found["rows"]:
        for name in ("ratio", "low", "high", "milliseconds", "against_milliseconds"):
            assert math.isfinite(row[name]) and row[name] > 0, row
        assert row["low"] <= row["ratio"] <= row["high"]
    return found


@pytest.mark.slow
def test_train_step_has_every_row_and_every_variant_its_result(monkeypatch, tmp_path, capsys):
    found = run(monkeypatch, tmp_path, "train-step")
    rows = {(row["subject"], row["variant"], row["against"]): row["difference"] for row in found["rows"]}
    techniques = [
        steps.STANDING,
        steps.RARELY,
        steps.ALWAYS,
        "4-bit fake quantization",
        "5-bit codebook",
        "low rank, a quarter of full",
    ]
    expected = {(model, technique, "dense") for model in steps.LENETS for technique in techniques}
    expected |= {
        ("LeNet-5", f"patches, {form}", f"native convolution, {form}") for form in ("scan of 2 steps", "one step")
    }
    expected |= {(model, "dense", steps.TORCH) for model in steps.LENETS if peer.installed()}
    assert rows.keys() == expected
    assert max(rows.values()) < 1e-5
    printed = capsys.readouterr().out
    assert jax.devices()[0].device_kind in printed and "jax " + jax.__version__ in printed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_prune_has_every_row_equal_masks_and_smaller_files(monkeypatch, tmp_path):
    found = run(monkeypatch, tmp_path, "prune")
    rows = [(row["subject"], row["against"]) for row in found["rows"]]
    assert rows == [
        *[("mask of 600 weights", masks.BISECTION)] * 2,
        *[("mask of 576 weights", masks.BISECTION)] * 2,
        ("LeNet-300-100", masks.DENSE_STEP),
        *[(f"{name}, a batch", pruned.MASKED) for name in pruned.MODELS],
        *[(name, pruned.TRACING) for name in ("ResNet-20", "ViT")],
    ]
    assert max(row["difference"] for row in found["rows"]) < 1e-5
    assert [row["difference"] for row in found["rows"][:5]] == [0] * 5
    if peer.installed("tensorflow"):
        names = [pruned.DENSE, pruned.SCATTERED, pruned.REMOVED]
        assert [(file["subject"], file["writer"]) for file in found["files"]] == [
            (model, name) for model in pruned.MODELS for name in names
        ]
        for dense, scattered, removed in (found["files"][:3], found["files"][3:]):
            assert scattered["bytes"] == dense["bytes"] > 1.5 * removed["bytes"]
            assert max(file["error"] for file in (dense, scattered, removed)) < 1e-4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_factorize_has_every_row_and_no_share_is_passed(monkeypatch, tmp_path):
    pytest.importorskip("tensorly", reason="pip install 'jaxcompress[tensorly]'")
    monkeypatch.setattr(factorized, "MODELS", ("LeNet-5",))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # for tensorly
        found = run(monkeypatch, tmp_path, "factorize")
    rows = [(row["subject"], row["variant"], row["against"], row["difference"]) for row in found["rows"]]
    for subject, variant, against, difference in rows[:6]:
        assert subject.startswith("LeNet-5, a ") and against == "dense" and difference < 1e-5
        words, _, share = variant.partition(", ")
        assert float(share.rstrip("%")) / 100 <= factorized.SHARES[words] + 0.01
    assert {(subject, against) for subject, _, against, _ in rows[6:]} == {
        (subject, against)
        for subject in (
            "SVD of 16x12",
            "randomized SVD of 16x12",
            "Tucker-2 of 3x3x8x8",
            "CP of 3x3x8x8",
            "tensor train of 3x3x8x8",
        )
        for against in (decompositions.NUMPY, decompositions.JAX)
    }
    exact = [difference for subject, _, _, difference in rows[6:] if not subject.startswith("CP")]
    assert max(map(abs, exact)) < 1e-3
    if peer.installed("tensorflow"):
        assert [file["writer"] for file in found["files"]] == ["dense", *factorized.SHARES]
        sizes = [file["bytes"] for file in found["files"]]
        assert sizes == sorted(sizes, reverse=True) and sizes[-1] < sizes[0] / 4
        assert max(file["error"] for file in found["files"]) < 1e-4


def test_ranks_and_bisection_agree_on_ties_and_a_sort_keeps_them_all():
    scores, count = jnp.array([3.0, 1.0, 2.0, 2.0, 2.0]), jnp.int32(2)
    np.testing.assert_array_equal(masks.by_argsort(scores, count), [1, 0, 1, 0, 0])
    np.testing.assert_array_equal(masks.by_bisection(scores, count), [1, 0, 1, 0, 0])
    np.testing.assert_array_equal(masks.by_sort(scores, count), [1, 0, 1, 1, 1])


def test_without_torch_its_rows_are_left_out_by_name(monkeypatch):
    for name in ("techniques", "convolutions"):
        monkeypatch.setattr(steps, name, lambda *_: [])
    monkeypatch.setattr(peer, "installed", lambda: False)
    report = steps.train_step(timing.QUICK)
    assert report.rows == [] and "pip install 'jaxcompress[peers]'" in report.notes[0]


# TensorFlow's own, while it is imported and while it converts.
converting = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.mark.slow
@converting
def test_quantize_has_every_row_and_every_variant_its_result(monkeypatch, tmp_path, capsys):
    pytest.importorskip("ai_edge_litert", reason="pip install 'jaxcompress[tflite]'")
    monkeypatch.setattr(quantized, "NAMES", ("LeNet-5",))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # for qwix
        found = run(monkeypatch, tmp_path, "quantize")
    rows = {(row["variant"], row["against"]): row["difference"] for row in found["rows"]}
    exact = [(quantized.WEIGHTS, "dense"), (quantized.DEVICE, "dense")]
    near = [(quantized.BOTH, "dense")]
    if peer.installed("qwix"):
        qwix = quantized.QWIX_WEIGHTS, quantized.QWIX_DYNAMIC, quantized.QWIX_STATIC
        near += [(variant, "dense") for variant in qwix]
    integers = [(f"integers, {arithmetic}", quantized.FLOATS) for arithmetic in ("xnnpack", "reference")]
    written, ways = [], [files.OURS]
    if peer.installed("tensorflow"):
        ways += [files.FLOAT, files.STOCK] + [files.EDGE] * peer.installed("ai_edge_quantizer")
        written = [(way, files.STOCK) for way in (files.WRITER, files.HELD, *ways) if way != files.STOCK]
    assert rows.keys() == {*exact, *near, *integers, *written}
    assert [rows[row] for row in integers] == [0, 0]
    assert max(rows[row] for row in exact) < 1e-5
    assert max(rows[row] for row in near) < 0.05 and max(rows[row] for row in written) < 0.2
    assert {file["writer"] for file in found["files"]} == set(ways)
    for file in found["files"]:
        assert file["milliseconds"] > 0 and 0 < file["min_us"] <= file["median_us"]
        weights = 430_500 * (4 if file["writer"] == files.FLOAT else 1)
        assert weights < file["bytes"] < 1.1 * weights
        assert file["error"] < (1e-5 if file["writer"] == files.FLOAT else 0.2)
    printed = capsys.readouterr().out
    assert all(way in printed for way in ways) and "jax " + jax.__version__ in printed


@pytest.mark.slow
def test_integers_of_resnet8_are_litert_s():
    pytest.importorskip("ai_edge_litert", reason="pip install 'jaxcompress[tflite]'")
    assert [row.difference for row in quantized.evaluations("ResNet-8", timing.QUICK)] == [0, 0]


def without(monkeypatch, *packages):
    """Makes packages seem not to be installed."""
    monkeypatch.setattr(peer, "installed", lambda package="torch": package not in packages)


def test_without_peers_quantize_leaves_them_out_by_name(monkeypatch):
    for name in ("training_steps", "evaluations"):
        monkeypatch.setattr(quantized, name, lambda *_: [])
    without(monkeypatch, "qwix", "ai_edge_litert")
    report = quantized.quantize(timing.QUICK)
    assert (report.rows, report.files) == ([], ())
    assert [note.partition(" ")[0] for note in report.notes] == ["qwix", "LiteRT"]


def test_without_converters_only_our_file_is_measured(monkeypatch):
    pytest.importorskip("ai_edge_litert", reason="pip install 'jaxcompress[tflite]'")
    without(monkeypatch, "tensorflow")
    weights = {"fc": {"kernel": jax.random.normal(jax.random.key(0), (6, 4)), "bias": jnp.ones(4)}}
    images = jax.random.uniform(jax.random.key(1), (1, 5, 6))

    def net(params, x):
        return x @ params["fc"]["kernel"] + params["fc"]["bias"][None]

    problem = steps.Problem(net, weights, (images, jnp.zeros((1, 5), jnp.int32)))
    monkeypatch.setattr(steps, "make_problem", lambda *_: problem)
    monkeypatch.setattr(files, "latency", lambda *_, **__: latencies.pop())
    latencies = [Latency(median, median - 1, 0.0, 1, 5, 1, "a device") for median in (3.0, 9.0, 4.0)]
    device = quantized.read.__wrapped__("net", timing.QUICK).device
    report = files.compare("net", device, replace(timing.QUICK, interpreters=3))
    (file,) = report.files
    assert (file.subject, file.writer, file.median_us, file.min_us) == ("net", files.OURS, 4, 2)
    assert file.bytes == len(writer.to_bytes(device)) and 0 < file.error < 0.02
    assert report.rows == [] and report.notes[0].startswith("TensorFlow is not installed")


def test_outputs_are_in_reals_by_the_scales_of_the_file():
    pytest.importorskip("ai_edge_litert", reason="pip install 'jaxcompress[tflite]'")
    doubled = Layer(np.array([[64]], np.int8), np.array([1 / 32], np.float32), np.zeros(1, np.int32))
    content = writer.to_bytes(layer_model(doubled, grid(0.5, -10), grid(0.25, 3), (1, 1)))
    # On a grid of halves from -59 to 68.5, doubled, then on a grid of quarters from -32.75 to 31.
    inputs = np.array([[1.5], [1.6], [-3.0], [100.0], [-100.0]], np.float32)
    np.testing.assert_array_equal(converters.outputs(content, inputs), [[3.0], [3.0], [-6.0], [31.0], [-32.75]])


def test_the_error_of_a_file_is_a_share_of_the_outputs():
    assert files.error(np.array([3.0, 4.0]), np.array([0.0, 5.0])) == pytest.approx((10 / 25) ** 0.5)


def test_small_ratios_keep_two_digits():
    assert [benchmark._digits(ratio) for ratio in (12.345, 0.996, 0.1, 0.00432)] == ["12.35", "1.00", "0.10", "0.0043"]


def test_a_row_is_the_median_of_paired_ratios():
    times = {"a": np.array([2.0, 40.0, 6.0]), "b": np.array([1.0, 10.0, 2.0])}
    row = timing.row("subject", times, "a", "b", 0)
    assert (row.ratio, row.low, row.high, row.milliseconds, row.against_milliseconds) == (3, 2.5, 3.5, 6, 2)


def test_no_rounds_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "prune", "--quick", "--rounds", "0"])
    with pytest.raises(SystemExit) as ended:
        benchmark.main()
    assert ended.value.code == 2


@pytest.mark.slow
def test_distill_has_every_row_and_the_bytes_of_the_memory(monkeypatch, tmp_path, capsys):
    found = run(monkeypatch, tmp_path, "distill")
    variants = [distilled.STORED, distilled.HEARD, "RKD, distances", "CRD, 4 negatives"]
    rows = {(row["subject"], row["variant"], row["against"]): row["difference"] for row in found["rows"]}
    assert rows.keys() == {(name, variant, distilled.PLAIN) for name in distilled.PAIRS for variant in variants}
    assert max(rows.values()) < 1e-4  # a teacher's logits are the same, stored or heard
    assert found["notes"] == [f"CRD's memory of 200 examples, 128 features: {2 * 200 * 128 * 4 + 8:,} bytes"]
    assert "epochs of 2 batches of 10" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("promotion")
def test_sweep_has_every_row_and_every_way_the_same_result(monkeypatch, tmp_path):
    found = run(monkeypatch, tmp_path, "sweep")
    rows = {(row["variant"], row["against"]): row["difference"] for row in found["rows"]}
    programs = [swept.EPOCHS, "one program, 1 at a time", "one program, 2 at a time"]
    assert rows.keys() == {*((way, swept.STEPS) for way in programs), (swept.COMMAND, swept.COMMANDS)}
    # The losses of an epoch, and the errors on a test set.
    assert max(rows.values()) < 1e-5


def test_a_command_that_fails_says_why(tmp_path):
    with pytest.raises(RuntimeError, match="paper_configs/sparsity/digits.yaml: error: .*sparsty"):
        swept._seconds("paper_configs/sparsity/digits.yaml", {"sparsty": 0.5}, tmp_path)
