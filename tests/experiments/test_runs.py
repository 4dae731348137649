"""Runs are done once, branch from their trunk, and go on after any interruption to the same bits."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import jax
import numpy as np
import pytest
import yaml

import jaxcompress as jc
from experiments import build, config, data, evaluate, plan, runs
from experiments.config import (
    MLP,
    SVD,
    Binary,
    Codebook,
    Data,
    Distill,
    Experiment,
    Magnitude,
    Optimiser,
    Ramp,
    Stage,
    Ternary,
    Weights,
)
from experiments.logging import wandb_log
from experiments.variables import digest
from jaxcompress.arrays import Masked, is_compressed

pytestmark = pytest.mark.usefixtures("promotion")


ROOT = pathlib.Path(__file__).parent.parent.parent
SGD = Optimiser("sgd", 0.1)
DENSE = Experiment(Data("digits", 200), MLP((16,)), (Stage("dense", 2, 50, SGD),))
PRUNE = Magnitude("fc1/kernel", 0.7, Ramp(1.5), every=5)
PRUNED = replace(DENSE, stages=(*DENSE.stages, Stage("pruned", 2, 50, SGD, (PRUNE,))))
NORMED = replace(
    DENSE,
    model=MLP((16,), norm=True),
    stages=(Stage("normed", 3, 50, recipe=(Ternary("fc./kernel"),), select="best-validation", loss="square-hinge"),),
)
NOISE = Binary("fc./kernel", stochastic=True, test="weights")
NOISY = replace(
    NORMED,
    model=MLP((16,), norm=True, initial="uniform"),
    stages=(Stage("noisy", 3, 50, Optimiser(scaling="glorot"), (NOISE,), select="best-validation"),),
)


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """Settings of runs that tests share: what is there already is not trained again."""
    return runs.Settings(tmp_path_factory.getbasetemp() / "shared" / "runs", None, "disabled")


def stage(**changes):
    return replace(DENSE, stages=(replace(DENSE.stages[0], **changes),))


def rows(run):
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


# What a run leaves.


def test_run_leaves_what_it_promises(shared):
    run = runs.run(PRUNED, shared)
    metrics = run.metrics
    assert run.experiment == PRUNED and run.finished
    assert run.packed_file.stat().st_size == metrics["bytes"]
    assert metrics["params_sha256"] == digest(run.params()) == rows(run)[-1]["sha256"]
    assert metrics["error"] + metrics["accuracy"] == pytest.approx(100)
    assert metrics["macs"] == metrics["dense_macs"] == 64 * 16 + 16 * 10
    assert metrics["parameters"] < metrics["dense_parameters"] == 64 * 16 + 16 + 16 * 10 + 10
    assert {path: a["macs"] for path, a in metrics["activity"].items()} == {"fc1/kernel": 1024, "fc2/kernel": 160}
    assert json.loads((run.folder / "ledger.json").read_text())["packed_bytes"] == metrics["bytes"]
    assert f"{metrics['bytes']:,}" in (run.folder / "ledger.txt").read_text()
    for name in ("curves.png", "confusion.png"):
        assert (run.folder / name).read_bytes().startswith(b"\x89PNG")
    assert not (run.folder / "checkpoint").exists() and not list(run.folder.glob("*partial*"))


def test_packed_file_holds_the_model_that_was_measured(shared):
    run = runs.run(PRUNED, shared)
    leaf = run.params()["fc1"]["kernel"]
    assert isinstance(leaf, Masked) and int((~leaf.mask).sum()) == round(0.7 * 64 * 16)
    restored = jc.export.load(run.packed_file)
    digits = runs.dataset(PRUNED.data, None)
    outputs = evaluate.predict(build.predictor(PRUNED.model, 10), restored, digits.test.images)
    assert evaluate.quality(outputs, digits.test.labels).error == run.metrics["error"]


def test_packed_file_holds_the_running_statistics(shared):
    run = runs.run(NORMED, shared)
    restored, params = jc.export.load(run.packed_file), run.params()
    for layer, values in params["batch_stats"].items():
        for name, value in values.items():
            assert np.any(np.asarray(value) != (1 if name == "var" else 0))
            np.testing.assert_array_equal(restored["batch_stats"][layer][name], value)
    digits = runs.dataset(NORMED.data, None)
    outputs = evaluate.predict(build.predictor(NORMED.model, 10), restored, digits.test.images)
    assert evaluate.quality(outputs, digits.test.labels).error == run.metrics["error"]
    without = restored | {"batch_stats": jax.tree.map(np.ones_like, restored["batch_stats"])}
    assert np.any(outputs != evaluate.predict(build.predictor(NORMED.model, 10), without, digits.test.images))
    statistics = 2 * (16 + 10)
    assert run.metrics["dense_parameters"] == 64 * 16 + 16 * 10 + 2 * (16 + 10) + statistics


def test_stage_goes_on_from_running_statistics(shared):
    run = runs.run(replace(NORMED, stages=(*NORMED.stages, Stage("nothing", 0, 50))), shared)
    assert run.metrics["params_sha256"] == runs.run(NORMED, shared).metrics["params_sha256"]


def test_noise_of_training_is_neither_validated_nor_handed_on(shared):
    run = runs.run(NOISY, shared)
    params = run.params()
    assert not any(is_compressed(leaf) for leaf in jax.tree.leaves(params, is_leaf=is_compressed))
    kernel = np.asarray(params["fc1"]["kernel"])
    assert np.abs(kernel).max() <= 1 and len(np.unique(kernel)) > 100
    digits = runs.dataset(NOISY.data, None)
    error = evaluate.error_rate(build.predictor(NOISY.model, 10), params, digits.validation)
    assert error == min(row["validation_error"] for row in rows(run))


def test_rows_count_epochs_and_steps(shared):
    found = rows(runs.run(PRUNED, shared))
    assert [row["epoch"] for row in found] == [1, 2]
    assert [row["step"] for row in found] == [24, 48]  # 1237 examples in batches of 50
    assert all(row["loss"] > 0 and 0 <= row["validation_error"] <= 100 for row in found)


def test_finished_run_is_returned_untouched(shared):
    run = runs.run(PRUNED, shared)
    before = stamps(run.folder)
    again = runs.run(PRUNED, shared._replace(progress=lambda *_: pytest.fail("trained again")))
    assert again.folder == run.folder and stamps(run.folder) == before


def test_branch_shares_its_trunk(shared):
    trunk = runs.run(DENSE, shared)
    before = stamps(trunk.folder)
    trained = []
    branch = replace(DENSE, stages=(*DENSE.stages, Stage("other", 1, 50, SGD)))
    run = runs.run(branch, shared._replace(progress=lambda _, total, text: trained.append(text)))
    assert stamps(trunk.folder) == before
    assert len(trained) == 1 and trained[0].startswith(run.folder.name)


def test_run_starts_from_its_trunk(shared):
    run = runs.run(replace(DENSE, stages=(*DENSE.stages, Stage("nothing", 0, 50))), shared)
    assert rows(run) == []
    assert run.metrics["params_sha256"] == runs.run(DENSE, shared).metrics["params_sha256"]


def test_seeds_are_other_runs(shared):
    one, two = (runs.locate(replace(DENSE, seed=seed), shared.root).folder for seed in (0, 1))
    assert one != two and one.name.startswith("dense-")


def test_unfinished_and_foreign_folders_are_told_apart(tmp_path):
    with pytest.raises(ValueError, match="is not finished"):
        _ = runs.Run(tmp_path).metrics
    with pytest.raises(ValueError, match=r"is not a run: it has no config\.yaml"):
        _ = runs.Run(tmp_path).experiment


# Which parameters a stage hands on.


def test_best_validation_hands_on_the_first_epoch_of_least_error(shared):
    noisy = stage(name="best", epochs=6, optimiser=Optimiser("sgd", 2.0, "constant"), select="best-validation")
    run = runs.run(noisy, shared)
    errors = [row["validation_error"] for row in rows(run)]
    best = errors.index(min(errors))
    assert best < 5  # else this test says nothing
    assert run.metrics["params_sha256"] == rows(run)[best]["sha256"]


def test_without_validation_examples_the_last_epoch_is_handed_on(shared):
    run = runs.run(replace(DENSE, data=Data("digits", 0, limit=100)), shared)
    assert [row["validation_error"] for row in rows(run)] == [None, None]
    assert run.metrics["params_sha256"] == rows(run)[-1]["sha256"]


@pytest.mark.parametrize(
    ("experiment", "message"),
    [
        (stage(select="best-validation", recipe=(PRUNE,)), "changes its sparsity"),
        (stage(batch=5000), "batches of 5000; there are 1237"),
        (replace(stage(select="best-validation"), data=Data("digits", 0)), "no examples are held out"),
        (stage(distill=Distill(replace(DENSE, data=Data("digits", 100)))), "teacher is trained on"),
        (stage(recipe=(Weights("fc9/kernel", 4),)), "matches no parameter"),
        (stage(recipe=(Weights("fc1/kernel", 9),)), "9"),
    ],
)
def test_what_makes_no_sense_is_refused(experiment, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        runs.run(experiment, runs.Settings(tmp_path, None, "disabled"))


def test_diverged_run_is_not_finished(tmp_path):
    experiment = stage(optimiser=Optimiser("sgd", 1e30))
    with pytest.raises(FloatingPointError):
        runs.run(experiment, runs.Settings(tmp_path, None, "disabled"))
    assert not runs.locate(experiment, tmp_path).finished


def test_student_learns_from_a_teacher_that_is_trained_once(shared):
    teacher = replace(DENSE, model=MLP((20,)), stages=(Stage("teacher", 1, 50, SGD),))
    run = runs.run(stage(name="student", epochs=1, distill=Distill(teacher)), shared)
    assert runs.locate(teacher, shared.root).finished
    assert rows(run)[0]["loss"] > 0


def test_a_teacher_answers_for_augmented_images_as_for_others(shared, monkeypatch):
    """Where the change of the images is none, logits at hand and logits as they come train alike."""
    teacher = replace(DENSE, model=MLP((20,)), stages=(Stage("teacher", 1, 50, SGD),))
    at_hand = runs.run(stage(name="student", epochs=2, distill=Distill(teacher)), shared)
    monkeypatch.setattr(plan, "augmented", lambda images, key, methods: images)
    as_they_come = runs.run(stage(name="student", epochs=2, distill=Distill(teacher), augment=("flip",)), shared)
    assert at_hand.folder != as_they_come.folder
    for one, other in zip(rows(at_hand), rows(as_they_come), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)


def test_a_log_is_open_for_one_run_at_a_time(tmp_path, monkeypatch):
    opened = []

    @contextlib.contextmanager
    def alone(mode, folder, name, config, group):
        assert not opened, f"the log of {opened} is open"
        opened.append(name)
        with wandb_log("disabled", folder, name, config, group) as log:
            yield log
        opened.remove(name)

    monkeypatch.setattr(runs, "wandb_log", alone)
    teacher = replace(DENSE, model=MLP((20,)), stages=(Stage("teacher", 0, 50, SGD),))
    first = Stage("first", 0, 50, SGD)
    student = Stage("student", 0, 50, SGD, distill=Distill(teacher), rewind="first")
    assert runs.run(replace(DENSE, stages=(first, student)), runs.Settings(tmp_path, None, "offline")).finished


# Going on after an interruption.


class Stopped(Exception):
    pass


def stop_at(last, seen):
    def progress(done, total, text):
        seen.append(done)
        if done == last:
            raise Stopped

    return progress


RECIPE = (Magnitude("fc1/kernel", 0.6, Ramp(3.0), every=7), Weights("fc2/kernel", 4), Codebook("fc./bias", 2))
RESUMED = {
    "last": replace(DENSE, model=MLP((16,), 0.2), stages=(Stage("resumed", 5, 50, Optimiser("adam"), recipe=RECIPE),)),
    "best-validation": stage(
        name="best", epochs=6, optimiser=Optimiser("sgd", 2.0, "constant"), select="best-validation"
    ),
    "statistics": replace(NORMED, stages=(replace(NORMED.stages[0], epochs=6),)),
    "noise": replace(NOISY, stages=(replace(NOISY.stages[0], epochs=6),)),
}


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.sampled(2)
def test_interrupted_run_goes_on_to_the_same_bits(name, shared, tmp_path):
    whole = runs.run(RESUMED[name], shared)
    first, second = [], []
    settings = runs.Settings(tmp_path, None, "disabled", 0.0, stop_at(4, first))
    with pytest.raises(Stopped):
        runs.run(RESUMED[name], settings)
    interrupted = runs.locate(RESUMED[name], tmp_path)
    assert not interrupted.finished and first == [1, 2, 3, 4]
    resumed = runs.run(RESUMED[name], settings._replace(progress=stop_at(None, second)))
    assert second[0] in (3, 4)  # from a checkpoint, not from the start
    for file in ("metrics.json", "metrics.jsonl", "model.jcpk", "structure.json", "ledger.json", "config.yaml"):
        assert (resumed.folder / file).read_bytes() == (whole.folder / file).read_bytes(), file


def test_first_of_equal_epochs_is_handed_on_after_an_interruption(tmp_path):
    """Thirds are rounded upwards in float32: an error that a checkpoint shortened would lose against its equal."""
    still = Optimiser("sgd", 1e-7, "constant")  # moves the biases' bits and no guess
    params = build.initial_params(DENSE, runs.dataset(DENSE.data, None))
    for held_out in range(150, 200):
        split = data.load("digits", validation=held_out).validation
        error = evaluate.error_rate(build.predictor(DENSE.model, 10), params, split)
        if float(np.float32(error)) > error:
            break
    given = replace(stage(name="still", epochs=4, optimiser=still, select="best-validation"))
    experiment = replace(given, data=Data("digits", held_out))
    settings = runs.Settings(tmp_path, None, "disabled", 0.0, stop_at(3, []))
    with pytest.raises(Stopped):
        runs.run(experiment, settings)
    run = runs.run(experiment, settings._replace(progress=stop_at(None, [])))
    found = rows(run)
    assert {row["validation_error"] for row in found} == {error}
    assert len({row["sha256"] for row in found}) == 4  # else this test says nothing
    assert run.metrics["params_sha256"] == found[0]["sha256"]


def test_half_a_line_is_trained_again(shared, tmp_path):
    settings = runs.Settings(tmp_path, None, "disabled", 1e9, stop_at(1, []))
    with pytest.raises(Stopped):
        runs.run(DENSE, settings)
    lines = runs.locate(DENSE, tmp_path).folder / "metrics.jsonl"
    lines.write_text(lines.read_text() + '{"epoch": 2, "lo')
    run = runs.run(DENSE, settings._replace(progress=stop_at(None, [])))
    assert rows(run) == rows(runs.run(DENSE, shared))


@pytest.mark.slow
def test_run_killed_for_real_goes_on_to_the_same_bits(shared, tmp_path):
    experiment = stage(name="killed", epochs=40, recipe=(PRUNE,))
    row = {"row": "r", "metric": "error", "experiment": "e", "stage": "killed"}
    table = {"paper": "p", "table": "t", "seeds": 1, "experiments": {"e": config.to_plain(experiment)}, "rows": [row]}
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(table))
    command = [sys.executable, str(ROOT / "scripts" / "reproduce.py"), str(tmp_path / "table.yaml")]
    command += ["--out", str(tmp_path / "out"), "--wandb", "disabled", "--checkpoint-seconds", "0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    run = runs.locate(experiment, tmp_path / "out" / "runs")
    lines, deadline = run.folder / "metrics.jsonl", time.monotonic() + 120

    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as child:
        while not (lines.exists() and lines.read_bytes().count(b"\n") >= 2):
            assert child.poll() is None and time.monotonic() < deadline, child.stderr.read()
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL and not run.finished

    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    whole = runs.run(experiment, shared)
    assert run.metrics == whole.metrics
    assert {"params_sha256", "logits_sha256", "error"} <= run.metrics.keys()
    assert rows(run) == rows(whole) and len(rows(run)) == 40


def test_digest_sees_every_bit():
    params = {"a": jax.numpy.ones(3), "b": jax.numpy.zeros(2)}
    assert digest(params) == digest(jax.tree.map(lambda x: x + 0, params))
    assert digest(params) != digest({**params, "b": -params["b"]})


def test_what_a_stage_breaks_of_an_earlier_one_is_said(shared):
    said = []
    settings = shared._replace(say=said.append)
    rounded = replace(PRUNED, stages=(*PRUNED.stages, Stage("rounded", 1, 50, SGD, (Weights("fc./kernel", 4),))))
    assert runs.run(rounded, settings).metrics["broken"] == [] == said
    factors = Stage("factors", 0, recipe=(SVD("fc1/kernel", 4),))
    masked = Stage("masked", 1, 50, SGD, (Magnitude("fc1/kernel", 0.5),))  # around the product, not in its factors
    run = runs.run(replace(DENSE, stages=(*DENSE.stages, factors, masked)), settings)
    assert run.metrics["broken"] == ["fc1/kernel: a rank of 4 at most, before; no longer"]
    assert said == [f"{run.folder.name}: fc1/kernel: a rank of 4 at most, before; no longer"]


# What is there is used again only if it would be made so now.


@pytest.fixture
def kept(shared, tmp_path):
    """Copies of finished runs of PRUNED and its trunk, to tamper with; training ends the test."""
    for experiment in (DENSE, PRUNED):
        made = runs.run(experiment, shared)
        shutil.copytree(made.folder, tmp_path / made.folder.name)
    said = []
    settings = runs.Settings(tmp_path, None, "disabled", progress=lambda *_: pytest.fail("trained"), say=said.append)
    return settings, said


def recorded(experiment, settings, change):
    path = runs.locate(experiment, settings.root).folder / "environment.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


OLDER = {"code": {"jaxcompress": "0.0.1", "sources_sha256": "0" * 64}}
CHANGES = {
    "code": (lambda e: e | OLDER, "by other code (jaxcompress 0.0.1 of sources 000000000000, now jaxcompress "),
    "data": (lambda e: e | {"data_sha256": "0" * 64}, "from other data (SHA-256 000000000000, now "),
    "neither recorded": (lambda e: {}, "from other data (SHA-256 None"),
    "mixed": (lambda e: e | {"begun": OLDER}, "in part from other data or by other code"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_was_made_otherwise_stops_what_would_use_it(name, kept):
    settings, _ = kept
    change, told = CHANGES[name]
    recorded(PRUNED, settings, change)
    before = stamps(settings.root)
    folder = runs.locate(PRUNED, settings.root).folder
    with pytest.raises(ValueError) as raised:
        runs.run(PRUNED, settings)
    message = str(raised.value)
    assert message.startswith(f"{folder.name} was made ") and told in message
    assert "--reuse uses what is there all the same, --force makes it anew" in message and "\n" not in message
    assert stamps(settings.root) == before and runs.run(DENSE, settings).finished


def test_what_stands_on_what_was_made_otherwise_stops_too(kept):
    settings, _ = kept
    recorded(DENSE, settings, CHANGES["code"][0])
    with pytest.raises(ValueError, match=f"^{runs.locate(DENSE, settings.root).folder.name} .*, and so were 1 more: "):
        runs.run(PRUNED, settings)


def test_reuse_uses_it_all_the_same_and_says_so(kept):
    settings, said = kept
    recorded(DENSE, settings, CHANGES["code"][0])
    reuse = settings._replace(differing="reuse")
    before = stamps(settings.root)
    runs.settle([PRUNED], reuse)
    assert said[0] == "runs that are there and used again: 2"
    assert said[1].startswith(f"warning: {runs.locate(DENSE, settings.root).folder.name} was made by other code")
    assert runs.run(PRUNED, reuse).finished and stamps(settings.root) == before


def test_anew_makes_it_and_what_stands_on_it_anew_to_the_same_bits(kept, shared):
    settings, said = kept
    recorded(DENSE, settings, CHANGES["data"][0])
    trained, logs = [], runs.locate(DENSE, settings.root).folder / "wandb" / "offline-run"
    logs.mkdir(parents=True)
    (runs.locate(DENSE, settings.root).folder / "logits-old.npz").write_bytes(b"")
    anew = settings._replace(differing="anew", progress=lambda done, total, text: trained.append(text))
    run = runs.run(PRUNED, anew)
    assert {text.partition("-")[0] for text in trained} == {"dense", "pruned"}
    assert run.metrics == runs.run(PRUNED, shared).metrics and logs.exists()
    assert not (runs.locate(DENSE, settings.root).folder / "logits-old.npz").exists()
    assert runs.run(PRUNED, settings).finished  # as one that is there, and trains nothing


def test_what_is_used_again_is_counted_and_nothing_else_is_said(kept):
    settings, said = kept
    runs.settle([PRUNED, DENSE], settings)
    runs.settle([replace(DENSE, seed=9)], settings)
    assert said == ["runs that are there and used again: 2"]


def test_a_checkpoint_of_other_code_is_no_start(tmp_path):
    experiment = stage(epochs=3)
    settings = runs.Settings(tmp_path, None, "disabled", 0.0, stop_at(2, []))
    with pytest.raises(Stopped):
        runs.run(experiment, settings)
    on = settings._replace(progress=stop_at(None, seen := []))
    recorded(experiment, settings, CHANGES["code"][0])
    with pytest.raises(ValueError, match="was made by other code"):
        runs.run(experiment, on)
    run = runs.run(experiment, on._replace(differing="reuse"))
    assert seen == [2, 3] and run.recorded["begun"]["code"] == OLDER["code"]
    with pytest.raises(ValueError, match="in part from other data or by other code"):
        runs.run(experiment, on)


def test_a_damaged_checkpoint_is_named_and_may_be_removed(tmp_path):
    experiment = stage(epochs=3)
    settings = runs.Settings(tmp_path, None, "disabled", 0.0, stop_at(2, []))
    with pytest.raises(Stopped):
        runs.run(experiment, settings)
    kept = runs.locate(experiment, tmp_path).folder / "checkpoint"
    shutil.rmtree(kept / "1")
    (kept / "1").mkdir()
    on = settings._replace(progress=stop_at(None, seen := []))
    with pytest.raises(ValueError, match=rf"{kept / '1'} is damaged \(.*\); removing {kept} is safe") as raised:
        runs.run(experiment, on)
    assert "\n" not in str(raised.value)
    shutil.rmtree(kept)
    assert runs.run(experiment, on).finished and seen == [1, 2, 3]


@pytest.mark.parametrize("file", ["structure.json", "params"])
def test_damaged_parameters_of_a_trunk_are_named(file, kept):
    settings, _ = kept
    path = runs.locate(DENSE, settings.root).folder / file
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.write_text('{"tree": {"fc1": ')
    branch = replace(DENSE, stages=(*DENSE.stages, Stage("other", 1, 50, SGD)))
    with pytest.raises(ValueError, match=rf"{path} is damaged \(.*; remove its folder and give the command"):
        runs.run(branch, settings)


@pytest.mark.parametrize("content", ["", "[]", '{"epoch": 1}', '{"epoch": 1, "loss": "x"}'])
def test_a_damaged_mark_of_divergence_is_named(content, kept):
    settings, _ = kept
    folder = runs.locate(PRUNED, settings.root).folder
    (folder / "metrics.json").unlink()
    (folder / "diverged.json").write_text(content)
    with pytest.raises(ValueError, match=r"diverged\.json is damaged \(.*\); remove it to try again"):
        runs.run(PRUNED, settings)


def test_a_damaged_configuration_is_named(kept):
    settings, _ = kept
    run = runs.locate(DENSE, settings.root)
    (run.folder / "config.yaml").write_text("data: [")
    with pytest.raises(ValueError, match=r"config\.yaml is damaged \(.*; remove its folder"):
        _ = run.experiment


def test_a_ramp_that_outlasts_its_stage_is_said_before_training(shared):
    short = Stage("short", 1, 50, SGD, (Magnitude("fc1/kernel", 0.9, Ramp(4.0, shape="linear"), every=6),))
    said = []
    settings = shared._replace(say=said.append, progress=lambda *_: said.append("trained"))
    run = runs.run(replace(DENSE, stages=(*DENSE.stages, short)), settings)
    line = (
        "stage 'short': Magnitude of 'fc1/kernel': sparsity 0.225 of 0.9 is reached: its ramp ends after epoch 4, the"
    )
    assert said[-2].startswith(f"warning: {line}") and said[-1] == "trained"
    assert run.metrics["unreached"] == [said[-2].removeprefix("warning: ")]
    assert run.metrics["sparsity"] == pytest.approx(0.225, abs=1e-3)
    assert run.metrics["reached"] == {"fc1/kernel": {"sparsity": run.metrics["sparsity"]}}
