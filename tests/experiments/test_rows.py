"""A row that asks for what will not be there is refused before anything is trained."""

from dataclasses import replace

import pytest

from experiments import config, data, rows, runs, tables
from tests.experiments.test_runs import DENSE

pytestmark = pytest.mark.usefixtures("promotion")

STAGES = (
    *DENSE.stages,
    config.Stage("pruned", 1, 50, recipe=(config.Magnitude("fc1/kernel", 0.5),)),
    config.Stage("shared", 1, 50, recipe=(config.Codebook("fc1/kernel", 4),)),
    config.PostTraining("int8"),
)
EXPERIMENT = replace(DENSE, stages=STAGES)


def reproduced(tmp_path, metric, stage, **fields):
    settings = runs.Settings(tmp_path / "runs", None, "disabled", progress=lambda *_: pytest.fail("trained"))
    table = config.Table(
        "a paper", "a table", {"one": EXPERIMENT}, (config.Row("a row", metric, "one", stage, **fields),)
    )
    return tables.reproduce(table, settings, 1)


@pytest.mark.parametrize(
    ("metric", "stage", "fields", "told"),
    [
        ("differ", "pruned", {}, "metric 'differ' is of PostTraining stages and of rows with a format; stage 'pruned'"),
        ("differ", "pruned", {"format": "float16"}, "format 'float16' are not evaluated in integers"),
        ("errors on 10", "pruned", {}, "metric 'errors on 10': digits has the classes 0 to 9"),
        ("sparsity", "dense", {}, "metric 'sparsity': no weight of stage 'dense' is masked"),
        ("bits", "pruned", {}, "metric 'bits': no weight of stage 'pruned' is rounded"),
        ("weights", "pruned", {"leaf": "fc1/kernl"}, r"no leaf 'fc1/kernl' \(did you mean 'fc1/kernel'\?\)"),
        ("weights", "int8", {"leaf": "fc1/kernl"}, r"no leaf 'fc1/kernl' \(did you mean 'fc1/kernel'\?\)"),
        ("act %", "pruned", {"leaf": "fc1/bias"}, "leaf 'fc1/bias' has no 'input %'"),
        ("FLOP", "int8", {"leaf": "fc1/bias"}, "leaf 'fc1/bias' has no 'macs'"),
        ("sparsity", "pruned", {"leaf": "fc2/kernel"}, "leaf 'fc2/kernel' has no 'sparsity'"),
        (
            "weight bits P+Q",
            "pruned",
            {"leaf": "fc1/kernel"},
            r"leaf fc1/kernel of kind Masked\(float32\) has no codes",
        ),
        ("rate P+Q %", "int8", {"leaf": "fc1/kernel"}, "leaf fc1/kernel of kind float32 has no codes:fixed"),
    ],
)
def test_what_will_not_be_there_is_refused(tmp_path, metric, stage, fields, told):
    with pytest.raises(ValueError, match=told):
        reproduced(tmp_path, metric, stage, **fields)
    assert not (tmp_path / "runs").exists()


def test_fewer_classes_have_fewer_errors(tmp_path, monkeypatch):
    monkeypatch.setitem(data.CLASSES, "digits", 7)
    with pytest.raises(ValueError, match="metric 'errors on 7': digits has the classes 0 to 6"):
        reproduced(tmp_path, "errors on 7", "pruned")


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return runs.Settings(tmp_path_factory.getbasetemp() / "shared" / "runs", None, "disabled")


@pytest.mark.slow
def test_what_passes_is_there_after_training(settings):
    """Every metric of a model and of a leaf, of stages that train and of one that quantizes."""
    asked = []
    for stage in ("shared", "int8"):
        of_model = [name for name in rows.METRICS if not name.startswith("errors on") or name == "errors on 9"]
        of_leaf = [
            name for name in rows.LEAF_METRICS if stage == "shared" or not name.endswith(("P+Q", "+H", "+Q %", "H %"))
        ]
        asked += [config.Row("a row", name, "one", stage) for name in of_model if (name, stage) != ("differ", "shared")]
        asked += [config.Row("a row", name, "one", stage, leaf="fc1/kernel") for name in of_leaf]
    table = config.Table("a paper", "a table", {"one": EXPERIMENT}, tuple(asked))
    results = {
        (row.stage, row.leaf, row.metric): r.mean
        for row, r in zip(asked, tables.reproduce(table, settings, 1), strict=True)
    }
    assert len(results) > 50
    for stage, bits in (("shared", 4), ("int8", 8)):
        assert results[stage, None, "sparsity"] == results[stage, "fc1/kernel", "sparsity"] == 0.5
        assert results[stage, "fc1/kernel", "bits"] == bits and results[stage, None, "bits"] == bits
        assert results[stage, None, "weights"] == 64 * 16 + 16 + 160 + 10 and results[stage, None, "macs %"] == 100
        assert results[stage, "fc1/kernel", "FLOP %"] == pytest.approx(
            results[stage, "fc1/kernel", "act %"] / 2, rel=0.02
        )
        assert results[stage, None, "rate"] == pytest.approx(4 * 1210 / results[stage, None, "bytes"])
    assert results["int8", None, "memory"] == results["shared", None, "memory"] / 4 == 64 + 16
