import json
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import masks, peer, steps, timing
from scripts import benchmark


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
    expected = {(model, technique, "dense") for model in steps.MODELS for technique in techniques}
    expected |= {
        ("LeNet-5", f"patches, {form}", f"native convolution, {form}") for form in ("scan of 2 steps", "one step")
    }
    expected |= {(model, "dense", steps.TORCH) for model in steps.MODELS if peer.installed()}
    assert rows.keys() == expected
    assert max(rows.values()) < 1e-5
    printed = capsys.readouterr().out
    assert jax.devices()[0].device_kind in printed and "jax " + jax.__version__ in printed


def test_masks_has_every_row_and_equal_masks(monkeypatch, tmp_path):
    found = run(monkeypatch, tmp_path, "masks")
    rows = [(row["subject"], row["against"]) for row in found["rows"]]
    assert rows == [
        *[("mask of 600 weights", masks.BISECTION)] * 2,
        *[("mask of 576 weights", masks.BISECTION)] * 2,
        ("LeNet-300-100", masks.DENSE_STEP),
    ]
    assert [row["difference"] for row in found["rows"]] == [0] * 5


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


def test_a_row_is_the_median_of_paired_ratios():
    times = {"a": np.array([2.0, 40.0, 6.0]), "b": np.array([1.0, 10.0, 2.0])}
    row = timing.row("subject", times, "a", "b", 0)
    assert (row.ratio, row.low, row.high, row.milliseconds, row.against_milliseconds) == (3, 2.5, 3.5, 6, 2)


def test_no_rounds_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "masks", "--quick", "--rounds", "0"])
    with pytest.raises(SystemExit) as ended:
        benchmark.main()
    assert ended.value.code == 2
