"""A sweep leaves what its points leave alone, trains nothing twice, and survives whatever ends it."""

import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import jax
import numpy as np
import pytest

from experiments import grid, runs, sweep, widths
from experiments.claims import claim, claimed
from experiments.config import MLP, SVD, Data, Experiment, Joint, Magnitude, Optimiser, PostTraining, Ramp, Stage
from experiments.placement import Placement
from experiments.verify import verify
from jaxcompress.arrays import FakeQuantized, Masked

pytestmark = pytest.mark.usefixtures("promotion")


ROOT = pathlib.Path(__file__).parent.parent.parent
SGD = Optimiser("sgd", 0.1)
PRUNE = Magnitude("fc1/kernel", 0.5, Ramp(1.0), every=5)
EXPERIMENT = Experiment(
    Data("digits", 200, limit=300), MLP((16,)), (Stage("dense", 1, 50, SGD), Stage("pruned", 2, 50, SGD, (PRUNE,)))
)
AXES = [grid.Axis("sparsity", (0.5, 0.8)), grid.Axis("seed", (0, 1))]
POINTS = [point.experiment for point in grid.points(EXPERIMENT, AXES)]


def settings_of(folder, **changes):
    return runs.Settings(folder, None, "disabled")._replace(**changes)


def placement(**changes):
    return Placement.of(jax.devices()[:1], **({"width": 2} | changes))


def rows(run):
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def same_results(run, alone):
    """Floats within a tolerance; counts, and what follows from them, exactly."""
    found, expected = run.metrics, alone.metrics
    for name in ("bytes", "rate", "parameters", "macs", "error", "confusion"):
        assert found[name] == expected[name], name
    for row, other in zip(rows(run), rows(alone), strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert (row["epoch"], row["step"]) == (other["epoch"], other["step"])
        assert row["validation_error"] == other["validation_error"]
    for one, other in zip(jax.tree.leaves(run.params()), jax.tree.leaves(alone.params()), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A finished sweep, and what it said."""
    folder, said = tmp_path_factory.mktemp("swept"), []
    with jax.numpy_dtype_promotion("standard"):
        found = sweep.sweep(POINTS, settings_of(folder, say=said.append), placement())
    return folder, found, said


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    with jax.numpy_dtype_promotion("standard"):
        return [runs.run(point, settings_of(folder)) for point in POINTS]


def test_points_are_what_they_are_alone(swept, alone):
    _, found, _ = swept
    assert [run.folder.name for run in found] == [run.folder.name for run in alone]
    for run, other in zip(found, alone, strict=True):
        same_results(run, other)


def test_runs_of_a_sweep_say_so(swept):
    _, found, _ = swept
    environment = json.loads((found[0].folder / "environment.json").read_text())
    assert environment["cohort"] == {"points": 4, "at a time": 2, "devices": 1}


def test_points_verify_within_tolerances(swept):
    """The program of a cohort rounds in its own way, so that bits are not compared."""
    folder, found, _ = swept
    exact, checks = verify(found[3], settings_of(folder))
    assert not exact and all(check.passed for check in checks)
    assert "loss of epoch 1" in [check.name for check in checks]


def test_what_is_there_is_not_trained_again(swept):
    folder, found, _ = swept
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    never = settings_of(folder, progress=lambda *_: pytest.fail("trained again"))
    assert sweep.sweep(POINTS, never, placement()) == found
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_new_points_alone_are_trained(swept, tmp_path):
    folder, _, _ = swept
    told = []
    more = [p.experiment for p in grid.points(EXPERIMENT, [AXES[0], grid.Axis("seed", (0, 1, 2))])]
    sweep.sweep(more, settings_of(folder, progress=lambda *given: told.append(given)), placement())
    assert {text for _, _, text in told} == {
        f"{runs.locate(dense(2), folder).folder.name} seed 2",
        "2 points of pruned",
    }


def dense(seed):
    return replace(EXPERIMENT, seed=seed, stages=EXPERIMENT.stages[:1])


def test_the_trunk_is_trained_once_for_each_seed(swept):
    folder, _, _ = swept
    trunks = [runs.locate(dense(seed), folder) for seed in (0, 1)]
    assert all(trunk.finished for trunk in trunks)
    environment = json.loads((trunks[0].folder / "environment.json").read_text())
    assert environment["cohort"]["points"] == 2


@pytest.mark.slow
def test_the_width_is_measured_and_said(tmp_path):
    said = []
    sweep.sweep(POINTS, settings_of(tmp_path, say=said.append), placement(width=None))
    assert any(text.startswith("4 points, ") and "1: " in text and "4: " in text for text in said)


@pytest.mark.slow
def test_points_of_other_shapes_are_other_programs(tmp_path):
    """Widths differ in shape and are run apart; ranks are padded and run together."""
    points = [replace(dense(0), model=MLP((width,))) for width in (8, 12)]
    points += [
        replace(dense(0), stages=(*dense(0).stages, Stage("factored", 2, 50, SGD, (SVD("fc1/kernel", rank),))))
        for rank in (2, 5)
    ]
    points += [replace(dense(0), stages=(*dense(0).stages, PostTraining("int8", 8)))]
    found = sweep.sweep(points, settings_of(tmp_path / "swept"), placement())
    made = [json.loads((run.folder / "environment.json").read_text()).get("cohort") for run in found]
    assert made[:2] == [None, None] and made[2] == made[3] == {"points": 2, "at a time": 2, "devices": 1}
    for run, point in zip(found[:4], points, strict=False):
        same_results(run, runs.run(point, settings_of(tmp_path / "alone")))
    assert [run.params()["fc1"]["kernel"].rank for run in found[2:4]] == [2, 5]
    assert found[4].finished


@pytest.mark.slow
def test_the_order_of_composition_is_an_axis(tmp_path):
    joint = Joint("fc1/kernel", 1260, (), (0.75,), (3,), damage="error")  # which neither of them alone is within
    chosen = replace(EXPERIMENT, stages=(dense(0).stages[0], Stage("chosen", 1, 50, SGD, (joint,))))
    axis = grid.Axis("order", ("sparsity-bits", "bits-sparsity"))
    points = [point.experiment for point in grid.points(chosen, [axis])]
    found = sweep.sweep(points, settings_of(tmp_path), placement())
    first, last = (run.params()["fc1"]["kernel"] for run in found)
    assert isinstance(first, FakeQuantized) and isinstance(first.weight, Masked)
    assert isinstance(last, Masked) and isinstance(last.weight, FakeQuantized)
    assert all(run.metrics["broken"] == [] and run.metrics["bytes"] <= 1300 for run in found)


def test_a_point_that_diverges_ends_alone(tmp_path):
    said = []
    points = [replace(dense(0), stages=(Stage("dense", 2, 50, replace(SGD, learning_rate=r)),)) for r in (0.1, 1e30)]
    fine, wild = sweep.sweep(points, settings_of(tmp_path, say=said.append), placement())
    assert fine.finished and not wild.finished
    assert fine.diverged is None and wild.diverged.epoch == 1
    assert any(text.startswith(f"{wild.folder.name} is not made: the loss of epoch 1") for text in said)
    never = settings_of(tmp_path, progress=lambda *_: pytest.fail("trained again"))
    sweep.sweep(points, never, placement())


@pytest.mark.slow
def test_what_stands_on_a_point_that_diverges_is_not_made(tmp_path):
    """Of stages after a diverged one, and of programs of one point, others go on too."""
    tame, last = EXPERIMENT.stages
    wild = Stage("dense", 1, 50, replace(SGD, learning_rate=1e30))
    points = [replace(EXPERIMENT, stages=(stage, last), seed=seed) for seed in (0, 1) for stage in (tame, wild)]
    points += [replace(EXPERIMENT, model=MLP((width,)), stages=(stage,)) for width, stage in ((8, wild), (12, tame))]
    made = [True, False, True, False, False, True]
    found = sweep.sweep(points, settings_of(tmp_path), placement())
    assert [run.finished for run in found] == made
    never = settings_of(tmp_path, progress=lambda *_: pytest.fail("trained again"))
    assert [run.finished for run in sweep.sweep(points, never, placement())] == made


def test_points_that_are_run_alone_are_so_on_any_mesh(tmp_path):
    devices = Placement(jax.sharding.AbstractMesh((2, 1), ("sweep", "data")))  # of two devices, which are not asked for
    (found,) = sweep.sweep([replace(dense(0), stages=(Stage("nothing", 0, 50),))], settings_of(tmp_path), devices)
    assert found.finished


def test_batches_that_devices_cannot_share_are_refused(tmp_path):
    devices = Placement(jax.sharding.AbstractMesh((1, 3), ("sweep", "data")))
    with pytest.raises(ValueError, match="stage 'dense': 3 devices cannot share a batch of 50"):
        sweep.sweep(POINTS, settings_of(tmp_path), devices)
    assert not list(tmp_path.iterdir())


def test_a_stage_that_cannot_begin_is_found_before_any_is_trained(tmp_path):
    points = [
        replace(p, stages=(p.stages[0], replace(p.stages[1], recipe=(replace(PRUNE, pattern="fc9"),)))) for p in POINTS
    ]
    with pytest.raises(ValueError, match="matches no parameter"):
        sweep.sweep(points, settings_of(tmp_path), placement())
    assert not list(tmp_path.iterdir())


# Whatever ends it.


class Stopped(Exception):
    pass


@pytest.mark.slow
def test_an_interrupted_sweep_goes_on_to_the_same_bits(swept, tmp_path):
    _, whole, _ = swept
    longer = [replace(p, stages=(p.stages[0], replace(p.stages[1], epochs=6))) for p in POINTS]
    whole = sweep.sweep(longer, settings_of(tmp_path / "whole"), placement())

    def stop(done, total, text):
        if text.endswith("pruned") and done == 5:
            raise Stopped

    with pytest.raises(Stopped):
        sweep.sweep(longer, settings_of(tmp_path / "cut", checkpoint_seconds=0.0, progress=stop), placement())
    told = []
    more = settings_of(tmp_path / "cut", progress=lambda done, total, text: told.append((done, text)))
    resumed = sweep.sweep(longer, more, placement())
    assert min(done for done, text in told if text.endswith("pruned")) > 1  # not from the start
    for run, other in zip(resumed, whole, strict=True):
        assert (run.folder / "metrics.jsonl").read_bytes() == (other.folder / "metrics.jsonl").read_bytes()
        assert run.metrics == other.metrics


def stop_after(count):
    """Ends a sweep when so many points are finished."""

    def finish(*given, **named):
        if next(finished) > count:
            raise Stopped
        return finish_of_run(*given, **named)

    finished, finish_of_run = itertools.count(1), runs.finish
    return finish


def bytes_of(run):
    return [(run.folder / name).read_bytes() for name in ("metrics.jsonl", "metrics.json", "model.jcpk")]


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9])
@pytest.mark.sampled(2)
def test_one_point_that_is_left_ends_in_the_same_bits(checkpoint_seconds, tmp_path, monkeypatch):
    """Also where another width is asked for, which the begun cohort does not take."""
    points = [replace(p, stages=(p.stages[1],)) for p in POINTS]
    whole = sweep.sweep(points, settings_of(tmp_path / "whole"), placement(width=4))
    said = []
    settings = settings_of(tmp_path / "cut", checkpoint_seconds=checkpoint_seconds, say=said.append)
    with monkeypatch.context() as stopping, pytest.raises(Stopped):
        stopping.setattr(runs, "finish", stop_after(3))
        sweep.sweep(points, settings, placement(width=4))
    resumed = sweep.sweep(points, settings, placement(width=1))
    assert said[-1] == "1 of 4 points go on 4 at a time, as they were begun; not 1, as is asked for"
    assert [bytes_of(run) for run in resumed] == [bytes_of(run) for run in whole]
    environments = [json.loads((run.folder / "environment.json").read_text()) for run in resumed]
    assert [each["cohort"]["at a time"] for each in environments] == [4, 4, 4, 4]


def test_a_width_that_was_measured_is_kept(tmp_path, monkeypatch):
    """Whatever a second measurement would say."""
    monkeypatch.setattr(widths, "_seconds", lambda program, cohort, placement, width: 1 / width)
    points = [replace(p, stages=(p.stages[1],)) for p in POINTS]
    with monkeypatch.context() as stopping, pytest.raises(Stopped):
        stopping.setattr(runs, "begin", stop_after(0))
        sweep.sweep(points, settings_of(tmp_path), placement(width=None))
    monkeypatch.setattr(widths, "_seconds", lambda program, cohort, placement, width: width)
    (run, *_) = sweep.sweep(points, settings_of(tmp_path), placement(width=None))
    assert json.loads((run.folder / "environment.json").read_text())["cohort"]["at a time"] == 4


@pytest.mark.slow
def test_what_was_not_begun_takes_the_width_that_is_asked_for(tmp_path, monkeypatch):
    points = [replace(p, stages=(p.stages[1],)) for p in POINTS]
    with monkeypatch.context() as stopping, pytest.raises(Stopped):
        stopping.setattr(runs, "begin", stop_after(0))
        sweep.sweep(points, settings_of(tmp_path), placement(width=4))
    (run, *_) = sweep.sweep(points, settings_of(tmp_path), placement(width=2))
    assert json.loads((run.folder / "environment.json").read_text())["cohort"]["at a time"] == 2


@pytest.mark.slow
def test_a_point_is_trained_on_by_the_program_it_was_begun_by(tmp_path):
    """One begun alone is no part of a sweep's cohort; one begun by a cohort and run alone is trained anew."""
    points = [replace(p, stages=(replace(p.stages[1], epochs=4),)) for p in POINTS]

    def stop(done, total, text):
        if done == 3:
            raise Stopped

    both = settings_of(tmp_path / "both", checkpoint_seconds=0.0)
    with pytest.raises(Stopped):
        runs.run(points[0], both._replace(progress=stop))
    swept = sweep.sweep(points, both, placement())
    expected = runs.run(points[0], settings_of(tmp_path / "alone"))
    assert bytes_of(swept[0]) == bytes_of(expected)
    environments = [json.loads((run.folder / "environment.json").read_text()) for run in swept]
    assert ["cohort" in each for each in environments] == [False, True, True, True]
    said, again = [], settings_of(tmp_path / "again", checkpoint_seconds=0.0)
    with pytest.raises(Stopped):
        sweep.sweep(points, again._replace(progress=stop), placement())
    run = runs.run(points[0], again._replace(say=said.append))
    assert bytes_of(run) == bytes_of(expected) and "was begun by the program of a sweep" in said[0]
    assert "cohort" not in json.loads((run.folder / "environment.json").read_text())


def test_a_damaged_cohort_names_its_file(tmp_path):
    path = runs.locate(POINTS[0], tmp_path).folder / "cohort.json"
    path.parent.mkdir()
    path.write_text('{"runs": ["a"], "width": 0')
    with pytest.raises(ValueError, match=r"cohort\.json is damaged .*: remove it"):
        sweep.sweep([dense(0), dense(1)], settings_of(tmp_path), placement())


SCRIPT = """
import sys, jax, pathlib
from tests.experiments.test_sweep import POINTS, placement, settings_of
from experiments import sweep
folder = pathlib.Path(sys.argv[1])
def progress(done, total, text):
    with (folder / sys.argv[2]).open("a") as file:
        file.write(f"{done} of {total}: {text}\\n")
with jax.numpy_dtype_promotion("standard"):
    sweep.sweep(POINTS, settings_of(folder / "runs", checkpoint_seconds=0.0, progress=progress), placement())
"""


def launch(folder, name):
    with (folder / f"{name}.errors").open("w") as errors:
        return subprocess.Popen([sys.executable, "-c", SCRIPT, folder, name], cwd=ROOT, stderr=errors)


def finished(folder):
    return sorted(path.parent.name for path in (folder / "runs").glob("*/metrics.json"))


@pytest.mark.slow
def test_two_launches_share_the_work_and_survive_a_kill(tmp_path, alone):
    """The first is killed in the middle; the second, started beside it, makes what is left."""
    first = launch(tmp_path, "first")
    while not (tmp_path / "first").exists() and first.poll() is None:
        time.sleep(0.05)
    second = launch(tmp_path, "second")
    while "pruned" not in (tmp_path / "first").read_text() and first.poll() is None:
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert second.wait(300) == 0, (tmp_path / "second.errors").read_text()
    names = {runs.locate(point, tmp_path).folder.name for point in [*POINTS, dense(0), dense(1)]}
    assert set(finished(tmp_path)) == names
    for point, other in zip(POINTS, alone, strict=True):
        same_results(runs.locate(point, tmp_path / "runs"), other)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("metrics.json")}
    third = launch(tmp_path, "third")
    assert third.wait(300) == 0 and not (tmp_path / "third").exists()
    assert stamps == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("metrics.json")}


def test_a_claim_is_held_by_one_at_a_time(tmp_path):
    first = claim(tmp_path / "run")
    assert first is not None and claim(tmp_path / "run") is None
    order, said = [], []

    def wait():
        with claimed(tmp_path / "run", said.append):
            order.append("second")

    other = threading.Thread(target=wait)
    other.start()
    while not said and other.is_alive():
        time.sleep(0.01)
    order.append("first")
    first.release()
    other.join(10)
    assert order == ["first", "second"] and said == ["waiting for run, which another process makes"]


@pytest.mark.slow
def test_what_another_process_makes_is_waited_for(tmp_path):
    """A claimed point is left out of the cohort, and made at the end if the other did not."""
    held = claim(runs.locate(POINTS[0], tmp_path).folder)
    said = []

    def say(text):
        said.append(text)
        if text.startswith("waiting"):
            held.release()

    found = sweep.sweep(POINTS, settings_of(tmp_path, say=say), placement())
    assert all(run.finished for run in found) and any(text.startswith("waiting") for text in said)
    assert "cohort" not in json.loads((found[0].folder / "environment.json").read_text())
    assert json.loads((found[1].folder / "environment.json").read_text())["cohort"]["points"] == 3
