"""An export is the packed model, held to JAX on the whole test set."""

import json

import pytest

from experiments import config, devices, runs
from tests.experiments.test_runs import DENSE

# TensorFlow's own, while it is imported and while it converts.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
    pytest.mark.usefixtures("promotion"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    settings = runs.Settings(tmp_path_factory.getbasetemp() / "shared" / "runs", None, "disabled")
    return runs.run(DENSE, settings)


@pytest.mark.slow
def test_export_reports_what_litert_does(run, tmp_path):
    found = devices.export(run, tmp_path / "model.tflite")
    assert found.bytes == (tmp_path / "model.tflite").stat().st_size
    assert found.jax_accuracy == pytest.approx(run.metrics["accuracy"])
    assert found.litert_accuracy == pytest.approx(found.jax_accuracy, abs=0.3)
    assert found.same_class > 99 and found.largest_difference < 1e-4
    assert found.operators["FULLY_CONNECTED"] == 2 and found.tensor_types == {"float32": 8, "int32": 1}
    assert found.reference_accuracy is found.differences is None
    assert 0 < found.latency.min_us <= found.latency.median_us
    assert found.arena >= 4 * (64 + 16)
    report = json.loads((tmp_path / "model.json").read_text())
    assert report["latency"]["median_us"] == found.latency.median_us and report["bytes"] == found.bytes
    for text in (f"{found.bytes:,}", "FULLY_CONNECTED", "accuracy in LiteRT", found.latency.device, "TensorFlow"):
        assert text in devices.described(found)


@pytest.fixture
def quick(monkeypatch):
    """Leaves the timing out."""
    timed = devices.Latency(1.0, 1.0, 0.0, 1, 1, 1, "nowhere")
    monkeypatch.setattr(devices.litert, "latency", lambda path, device: timed)


TYPES = {  # of the input as an image and flat, activation and output; of kernels; of biases; the flat shape
    "int8": {"int8": 4 + 2, "int32": 2 + 1},
    "int4": {"int8": 4, "int4": 2, "int32": 2 + 1},
    "int16x8": {"int16": 4, "int8": 2, "int64": 2, "int32": 1},
}


@pytest.mark.parametrize("io", ["integers", "float32"])
@pytest.mark.parametrize("format", ["int8", "int4", "int16x8"])
@pytest.mark.sampled(3)
def test_integers_are_those_of_the_device(run, tmp_path, quick, format, io):
    found = devices.export(run, tmp_path / "model.tflite", format, io=io)
    assert found.largest_difference == 0 and found.same_class == 100
    assert found.litert_accuracy == found.jax_accuracy == pytest.approx(run.metrics["accuracy"], abs=3)
    assert found.reference_accuracy == pytest.approx(found.litert_accuracy, abs=1)
    outputs = 360 * 10  # a fifth of the digits, in ten classes
    assert found.differences == {"xnnpack": {"0": outputs}, "reference": {"0": outputs}}
    reals = io == "float32"
    assert found.tensor_types == TYPES[format] | ({"float32": 2} if reals else {})
    assert found.operators.get("QUANTIZE") == found.operators.get("DEQUANTIZE") == (1 if reals else None)
    assert found.bytes < 4 * run.metrics["dense_parameters"] + 4000
    text = devices.described(found)
    assert "written by          jaxcompress" in text and "computes all in" in text
    assert f"xnnpack: {outputs:,} x 0" in text and ("takes and gives reals" in text) == reals
    report = json.loads((tmp_path / "model.json").read_text())
    assert report["differences"] == found.differences and report["arena"] == found.arena > 0


@pytest.mark.slow
def test_the_converters_integers_are_reported_as_its_own(run, tmp_path, quick):
    found = devices.export(run, tmp_path / "model.tflite", "int8-converter")
    assert set(found.tensor_types) <= {"int8", "int32"} and found.differences is None
    assert found.litert_accuracy == pytest.approx(found.jax_accuracy, abs=3)
    assert found.reference_accuracy == pytest.approx(found.jax_accuracy, abs=3)
    text = devices.described(found)
    assert "TensorFlow's converter" in text and "in ranges that the converter found" in text and "SUM" not in text


def test_calibration_changes_the_integers(run, tmp_path, quick):
    for examples in (20, 1000):
        calibration = config.PostTraining("export", examples=examples, rounding="nearest", ranges="mse")
        devices.export(run, tmp_path / f"{examples}.tflite", "int8", calibration=calibration)
    assert (tmp_path / "20.tflite").read_bytes() != (tmp_path / "1000.tflite").read_bytes()


def test_a_report_is_made_once_and_anew_for_another_calibration(run, quick):
    def written():
        return (run.folder / "model-int8.tflite").stat().st_mtime_ns

    calibration = config.PostTraining("export", examples=20, rounding="nearest")
    devices.export(run, run.folder / "model-int8.tflite", "int8", calibration=calibration)
    by_hand = written()
    found = devices.reported(run, "int8")
    once = written()
    assert once > by_hand and found["calibration"] == {"name": "export", "rounding": "gptq"}
    assert devices.reported(run, "int8") == found and written() == once


@pytest.mark.parametrize("format", ["float32", "dynamic-int8", "int8-converter"])
def test_reals_are_chosen_for_our_own_files_alone(run, tmp_path, format):
    with pytest.raises(ValueError, match=f"io 'float32' is of int8, int4, int16x8; a file of format '{format}' has"):
        devices.export(run, tmp_path / "model.tflite", format, io="float32")
    assert not list(tmp_path.iterdir())


def test_unfinished_run_is_refused_before_any_work(run, tmp_path):
    (tmp_path / "config.yaml").write_text((run.folder / "config.yaml").read_text())
    with pytest.raises(ValueError, match="is not finished"):
        devices.export(runs.Run(tmp_path), tmp_path / "model.tflite")
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
