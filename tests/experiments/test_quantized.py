"""Checks what a stage of post-training quantization counts and measures."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import config, quantized, runs
from tests.experiments.test_runs import DENSE

pytestmark = pytest.mark.usefixtures("promotion")


def test_agreement_by_hand():
    data = SimpleNamespace(test=SimpleNamespace(labels=np.array([0, 1])))
    ours, theirs = np.int8([[3, 2], [-128, 127]]), np.int8([[3, 4], [127, 126]])
    found = quantized.agreement(ours, theirs, data)  # pyright: ignore
    assert found == (100.0, 0.0, 3, 4, 255, {"-1": 1, "0": 1, "2": 1, "255": 1})
    assert list(found.differences) == ["-1", "0", "2", "255"]


def test_a_run_counts_differences_and_measures_memory(tmp_path_factory):
    settings = runs.Settings(tmp_path_factory.getbasetemp() / "shared" / "runs", None, "disabled")
    last = config.PostTraining("int8", examples=100)
    metrics = runs.run(replace(DENSE, stages=(*DENSE.stages, last)), settings).metrics
    assert metrics["differ"] == 0
    for found in metrics["kernels"].values():
        assert found["differences"] == {"0": found["outputs"]} and found["largest"] == 0
    assert metrics["arena"] >= 64 + 64 + 16 and (metrics["micro_arena"] or 10**9) > metrics["arena"]
