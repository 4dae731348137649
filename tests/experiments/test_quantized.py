"""Checks what a stage of post-training quantization counts and measures."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

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
    dense = runs.run(DENSE, settings).metrics
    for name in ("dense_bytes", "dense_parameters", "dense_macs", "dense_memory", "macs"):
        assert metrics[name] == dense[name]
    assert metrics["rate"] == 4 * 1210 / metrics["bytes"] and metrics["memory"] == dense["memory"] / 4
    assert metrics["bits"] == 8 and metrics["sparsity"] is None and metrics["unreached"] == []
    assert metrics["arena"] >= 64 + 64 + 16 and (metrics["micro_arena"] or 10**9) > metrics["arena"]


def test_parameters_and_inputs_at_work_are_counted_in_codes(tmp_path_factory):
    """Against the file, read by LiteRT, and the codes of its inputs."""
    settings = runs.Settings(tmp_path_factory.getbasetemp() / "shared" / "runs", None, "disabled")
    last = config.PostTraining("int8", examples=100)
    run = runs.run(replace(DENSE, stages=(*DENSE.stages, last)), settings)
    interpreter = Interpreter(str(run.folder / "model.tflite"))
    interpreter.allocate_tensors()
    stored = [t for t in interpreter.get_tensor_details() if t["shape"].tolist() in ([16, 64], [10, 16], [16], [10])]
    arrays = [interpreter.get_tensor(t["index"]) for t in stored if t["name"] != "input"]
    weights = [array for array in arrays if array.ndim == 2 or array.dtype == np.int32]
    assert run.metrics["parameters"] == sum(np.count_nonzero(array) for array in weights)
    images = runs.dataset(DENSE.data, None).test.images
    given = interpreter.get_input_details()[0]["quantization"]
    codes = np.clip(np.rint(images / np.float32(255) / np.float32(given[0])) + given[1], -128, 127)
    assert run.metrics["activity"]["fc1/kernel"] == {
        "macs": 1024,
        "input %": pytest.approx(100 * np.mean(codes != given[1]), abs=0.01),
    }
    assert 0 < run.metrics["activity"]["fc2/kernel"]["input %"] < 100
    ledger = json.loads((run.folder / "ledger.json").read_text())
    assert ledger["packed_bytes"] == run.metrics["bytes"] == (run.folder / "model.tflite").stat().st_size
