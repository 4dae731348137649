"""A stage that cannot begin is found before any is trained."""

from dataclasses import replace

import pytest

from experiments import config, plan, rehearsal, runs, tables
from jaxcompress.arrays import FakeQuantized, Masked
from tests.experiments.test_runs import DENSE

PRUNED = config.Stage("pruned", 3, recipe=(config.Magnitude("fc1/kernel", 0.5),))
WRONG = config.Stage("wrong", 3, recipe=(config.SVD("fc9/kernel", 4),))


pytestmark = pytest.mark.usefixtures("promotion")


@pytest.fixture
def rehearse():
    return rehearsal.Rehearsal(lambda data: runs.dataset(data, None)).begin


def after(*stages):
    return replace(DENSE, stages=(*DENSE.stages, *stages))


def test_stages_begin_on_one_another(rehearse):
    inside = config.Stage("inside", 1, recipe=(config.Weights("fc1/kernel", 4),))
    kernel = rehearse(after(PRUNED, inside, config.PostTraining("int8")))["fc1"]["kernel"]
    assert isinstance(kernel, FakeQuantized) and isinstance(kernel.weight, Masked)
    ticket = rehearse(after(PRUNED, replace(PRUNED, name="ticket", rewind="random")))
    assert isinstance(ticket["fc1"]["kernel"], Masked)


def test_a_stage_begins_once(rehearse, monkeypatch):
    begun = []
    build = plan.Plan.of
    monkeypatch.setattr(rehearsal.Plan, "of", lambda experiment, *rest: begun.append(1) or build(experiment, *rest))
    for stages in ((PRUNED,), (PRUNED, replace(PRUNED, name="again")), (PRUNED,)):
        rehearse(after(*stages))
    assert len(begun) == len(DENSE.stages) + 2


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((PRUNED, WRONG), "fc9/kernel"),
        ((PRUNED, replace(PRUNED, name="big", batch=5000)), "batches of 5000; there are 1237"),
        ((replace(PRUNED, distill=config.Distill(after(WRONG))),), "fc9/kernel"),
        ((replace(PRUNED, distill=config.Distill(replace(DENSE, data=config.Data("digits", 9)))),), "is trained on"),
        ((PRUNED, replace(PRUNED, name="further", rewind="initial", recipe=WRONG.recipe)), "fc9/kernel"),
    ],
)
def test_what_cannot_begin_is_refused_before_any_training(tmp_path, stages, message):
    settings = runs.Settings(tmp_path / "runs", None, "disabled", progress=lambda *_: pytest.fail("trained"))
    experiment = after(*stages)
    first = config.Row("a row", "error", "good", "pruned")
    last = config.Row("a row", "error", "bad", experiment.stages[-1].name)
    table = config.Table("a paper", "a table", {"good": after(PRUNED), "bad": experiment}, (first, last))
    with pytest.raises(ValueError, match=f"(?s)experiment 'bad', as far as stage '{last.stage}': .*{message}"):
        tables.reproduce(table, settings, 1)
    assert not (tmp_path / "runs").exists()


def test_what_is_finished_is_not_rehearsed(tmp_path, monkeypatch):
    settings = runs.Settings(tmp_path / "runs", None, "disabled")
    table = config.Table("a paper", "a table", {"one": DENSE}, (config.Row("a row", "error", "one", "dense"),))
    first = tables.reproduce(table, settings, 1)
    monkeypatch.setattr(rehearsal.Rehearsal, "begin", lambda *_: pytest.fail("rehearsed"))
    assert tables.reproduce(table, settings, 1) == first
