"""An export is the packed model, held to JAX on the whole test set."""

import json

import jax
import pytest

from experiments import devices, runs
from tests.experiments.test_runs import DENSE

# TensorFlow's own, while it is imported and while it converts.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(scope="module", autouse=True)
def promotion():
    """Optax promotes integers, in its schedules and in Adam."""
    with jax.numpy_dtype_promotion("standard"):
        yield


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
    assert found.operators["FULLY_CONNECTED"] == 2
    assert 0 < found.latency.min_us <= found.latency.median_us
    report = json.loads((tmp_path / "model.json").read_text())
    assert report["latency"]["median_us"] == found.latency.median_us and report["bytes"] == found.bytes
    for text in (f"{found.bytes:,}", "FULLY_CONNECTED", "accuracy in LiteRT", found.latency.device):
        assert text in devices.described(found)


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_integers_are_those_of_the_device(run, tmp_path, format):
    found = devices.export(run, tmp_path / "model.tflite", format)
    assert found.largest_difference == 0 and found.same_class == 100
    assert found.litert_accuracy == found.jax_accuracy == pytest.approx(run.metrics["accuracy"], abs=3)
    assert found.bytes < 4 * run.metrics["dense_parameters"] + 4000
    assert "written by jaxcompress" in devices.described(found)


def test_unfinished_run_is_refused_before_any_work(run, tmp_path):
    (tmp_path / "config.yaml").write_text((run.folder / "config.yaml").read_text())
    with pytest.raises(ValueError, match="is not finished"):
        devices.export(runs.Run(tmp_path), tmp_path / "model.tflite")
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
