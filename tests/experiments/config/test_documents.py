"""Configurations are read strictly: what does not fit is refused with the file and the key in the message."""

import pathlib
import re
import typing

import pytest
import yaml

from experiments import config
from experiments.config import (
    ACDC,
    CP,
    LC,
    LSQ,
    MLP,
    NM,
    SVD,
    Additive,
    Binary,
    Budget,
    Codebook,
    Connections,
    Data,
    Distill,
    DoReFa,
    Dynamic,
    Experiment,
    Float8,
    Joint,
    Kronecker,
    LeNet5,
    LeNet5BN,
    Magnitude,
    Movement,
    Optimiser,
    PostTraining,
    Pretrained,
    Ramp,
    Relations,
    ResNet8,
    Row,
    Stage,
    Table,
    TensorTrain,
    Ternary,
    Threshold,
    Tucker2,
    Weights,
    fingerprint,
    load_table,
    structure,
    to_plain,
)

PAPER_CONFIGS = sorted((pathlib.Path(__file__).parent.parent.parent.parent / "paper_configs").rglob("*.yaml"))
PAPER_TABLES = [path for path in PAPER_CONFIGS if "rows:" in path.read_text()]

TEACHER = Experiment(Data("digits", 200), MLP((30,), 0.3), (Stage("teacher", 2),))
EXPERIMENT = Experiment(
    Data("digits", 200, limit=100),
    MLP((16,)),
    (
        Stage("dense", 2, 50, Optimiser("sgd", 0.1, "linear", 0.5, 1e-4), verify=2),
        Stage(
            "small",
            3,
            recipe=(
                SVD("fc1/kernel", rank=4),
                Magnitude("fc1/kernel/u", 0.5, Ramp(2.0, 0.5, 0.1, "linear"), "global", 5),
                Threshold("fc2/kernel", 0.5),
                Weights("fc2/bias", 8, "tensor", False),
                Codebook("fc1/bias", 3, "density"),
            ),
            distill=Distill(TEACHER, 2.0, 0.5),
            select="last",
        ),
    ),
    seed=3,
)
TABLE = Table(
    "a paper",
    "a table",
    {
        "small": EXPERIMENT,
        "conv": Experiment(Data(), LeNet5(0.5), (Stage("s", 1, select="best-validation"),)),
        "normalized": Experiment(
            Data(),
            MLP((8, 8), norm=True, initial="uniform"),
            (
                Stage(
                    "s",
                    1,
                    optimiser=Optimiser(decay="exponential", final=3e-6, scaling="glorot"),
                    recipe=(Binary("fc./kernel", stochastic=True, test="weights"),),
                    loss="square-hinge",
                ),
            ),
        ),
        "learned": Experiment(
            Data(validation=0),
            MLP(activation="tanh", center=True),
            (
                Stage("given", 0),
                Stage(
                    "lc",
                    5,
                    optimiser=Optimiser("sgd", nesterov=True),
                    recipe=(
                        Additive(
                            "fc1/kernel", Magnitude("fc1/kernel", 0.99), Codebook("fc1/kernel", 1, scope="global")
                        ),
                        SVD("fc2/kernel", alpha=1e-6),
                    ),
                    lc=LC(1e-3, 1.1, 2, 3),
                ),
            ),
            pretrained=Pretrained("lc-lenet300/lenet300_classic.pklz"),
        ),
        "factorized": Experiment(
            Data(),
            LeNet5(filters=(4, 6), hidden=20),
            (
                Stage("by rank", 1, recipe=(CP("conv1/kernel", 4), Tucker2("conv2/kernel", energy=0.5))),
                Stage(
                    "by shape",
                    1,
                    recipe=(
                        TensorTrain("fc1/kernel", (20, 40), (20, 25), 3),
                        Kronecker("fc2/kernel", (20, 2), 2),
                        SVD("conv3/kernel", vbmf=True, split="spatial"),
                        Budget("conv4/kernel", "cp", 0.5, "loss", "greedy", 10),
                        Joint(
                            "fc4/kernel",
                            900,
                            (0.5,),
                            (0.5, 0.9),
                            (2, 4),
                            0.5,
                            0.7,
                            "bits-sparsity",
                            "spatial",
                            "error",
                            10,
                        ),
                    ),
                ),
            ),
        ),
        "wider": Experiment(Data(), LeNet5BN(), (Stage("s", 3, optimiser=Optimiser(decay="steps", at=(1.5, 2.0))),)),
        "quantized": Experiment(
            Data("cifar-10"),
            ResNet8(8),
            (
                Stage(
                    "low bits",
                    1,
                    recipe=(
                        LSQ("fc/kernel", 3, "channel"),
                        DoReFa("block1/conv1/kernel", 2),
                        Connections("block2/conv1/kernel", 0.5, "grasp"),
                        Dynamic("block2/conv2/kernel", 0.5, 2.0, "set"),
                        NM("block3/conv1/kernel", 1, 4, "sr-ste"),
                        Movement("block3/conv2/kernel", 0.5, Ramp(2.0)),
                        ACDC("fc/kernel", 0.5, 1.0, 3.0, 0.5, 0.5),
                        Float8("block2/conv2/kernel", "e5m2"),
                        Binary("block1/conv2/kernel", "xnor"),
                        Ternary("block2/conv1/kernel", "ttq", 0.1),
                    ),
                ),
                PostTraining("q", 4, "tensor", "gptq", "mse", 10),
            ),
            pretrained=Pretrained("mlperf-tiny/pretrainedResnet.tflite", 255.0),
        ),
    },
    (Row("r", "error", "small", "dense", 1.5, 0.1, "higher", "fc1/kernel"),),
    5,
    1,
    2.5,
    "all of it",
)

YAML = """
paper: a paper
table: a table
experiments:
  one:
    data: {name: digits, validation: 200}
    model: {type: MLP, hidden: [16]}
    stages:
      - {name: dense, epochs: 2, batch: 50, optimiser: {name: sgd, learning_rate: 1e-3}}
      - {name: small, epochs: 1, recipe: [{type: Magnitude, pattern: fc1/kernel, sparsity: 0.5}]}
rows:
  - {row: first, metric: error, experiment: one, stage: dense, paper: 1}
"""


def written(tmp_path, text=YAML, name="table.yaml"):
    (tmp_path / name).write_text(text)
    return tmp_path / name


def changed(tmp_path, old, new):
    assert old in YAML
    return written(tmp_path, YAML.replace(old, new))


def refused(path, *texts, overrides=()):
    with pytest.raises(ValueError) as caught:
        load_table(path, overrides)
    for text in texts:
        assert re.search(text, str(caught.value)), str(caught.value)


# Round trips.


@pytest.mark.parametrize("value", [TABLE, EXPERIMENT, TEACHER, Experiment(Data(), MLP(), (Stage("s", 1),))])
def test_every_class_comes_back_from_yaml(value):
    text = yaml.safe_dump(to_plain(value))
    assert structure(yaml.safe_load(text), type(value), "test") == value


def test_the_round_trip_holds_every_technique_and_model():
    text = yaml.safe_dump(to_plain(TABLE))
    for cls in (*typing.get_args(config.Technique), *typing.get_args(config.Model), PostTraining):
        assert f"type: {cls.__name__}" in text
    assert "type: Stage" not in text


@pytest.mark.parametrize("path", PAPER_TABLES, ids=lambda path: path.stem)
def test_paper_configs_load_and_come_back(path):
    table = load_table(path)
    assert structure(yaml.safe_load(yaml.safe_dump(to_plain(table))), Table, "test") == table


def test_defaults_are_left_out_of_the_plain_form():
    assert to_plain(Stage("s", 1)) == {"name": "s", "epochs": 1}


def test_number_without_a_point_is_read_as_float(tmp_path):
    stage = load_table(written(tmp_path)).experiments["one"].stages[0]
    assert stage.optimiser.learning_rate == 0.001
    assert load_table(written(tmp_path)).rows[0].paper == 1.0


def test_until_ends_with_the_stage():
    assert EXPERIMENT.until("dense").stages == EXPERIMENT.stages[:1]
    with pytest.raises(ValueError, match=r"no stage 'dens' \(did you mean 'dense'\?\); there are dense, small"):
        EXPERIMENT.until("dens")


# Files in files.


def test_experiment_and_teacher_may_be_files_beside_the_table(tmp_path):
    (tmp_path / "parts").mkdir()
    teacher = yaml.safe_dump(to_plain(TEACHER))
    written(tmp_path, teacher, "parts/teacher.yaml")
    student = yaml.safe_dump(to_plain(EXPERIMENT) | {"stages": [{"name": "dense", "epochs": 1}]})
    student = student.replace("epochs: 1", "epochs: 1\n  distill: {teacher: teacher.yaml}")
    written(tmp_path, student, "parts/student.yaml")
    table = yaml.safe_load(YAML) | {"experiments": {"one": "parts/student.yaml", "two": to_plain(TEACHER)}}
    loaded = load_table(written(tmp_path, yaml.safe_dump(table)))
    assert loaded.experiments["two"] == TEACHER
    assert loaded.experiments["one"].stages[0].distill == Distill(TEACHER)


def test_the_layer_of_a_teacher_is_no_file(tmp_path):
    knowledge = [{"type": "Relations", "loss": "pkt", "student": "fc1", "teacher": "fc2:input"}]
    stage = {"name": "dense", "epochs": 1, "distill": {"teacher": to_plain(TEACHER), "knowledge": knowledge}}
    student = to_plain(EXPERIMENT) | {"stages": [stage]}
    table = yaml.safe_load(YAML) | {"experiments": {"one": student, "two": to_plain(TEACHER)}}
    (loaded,) = load_table(written(tmp_path, yaml.safe_dump(table))).experiments["one"].stages
    assert loaded.distill == Distill(TEACHER, knowledge=(Relations("pkt", "fc1", "fc2:input"),))
    assert to_plain(loaded)["distill"]["knowledge"] == knowledge


def test_missing_file_is_named(tmp_path):
    refused(tmp_path / "none.yaml", r"none\.yaml: no such file")
    table = yaml.safe_load(YAML) | {"experiments": {"one": "gone.yaml"}}
    refused(written(tmp_path, yaml.safe_dump(table)), r"gone\.yaml: no such file")


def test_file_that_includes_itself_is_refused(tmp_path):
    loop = yaml.safe_dump(to_plain(EXPERIMENT.until("dense")))
    written(tmp_path, loop.replace("name: dense", "name: dense\n  distill: {teacher: loop.yaml}"), "loop.yaml")
    table = yaml.safe_load(YAML) | {"experiments": {"one": "loop.yaml"}}
    try:
        load_table(written(tmp_path, yaml.safe_dump(table)))
    except ValueError:
        return
    except RecursionError:
        escaped = "RecursionError"
    pytest.fail(f"{escaped} escapes")


# What does not fit.


@pytest.mark.parametrize(
    ("old", "new", "texts"),
    [
        ("batch: 50", "batchsize: 50", ["batchsize", "stages"]),
        ("paper: a paper", "papers: a paper", ["papers"]),
        ("learning_rate: 1e-3", "learning_rate: abc", ["learning_rate", "expected float"]),
        ("learning_rate: 1e-3", "learning_rate: true", ["learning_rate", "expected float"]),
        ("learning_rate: 1e-3", "learning_rate: [1]", ["learning_rate"]),
        ("batch: 50", "batch: true", ["batch", "expected int"]),
        ("batch: 50", "batch: 50.5", ["batch", "expected int"]),
        ("batch: 50", 'batch: "50"', ["batch", "expected int"]),
        ("name: dense", "name: 3", ["name", "expected str"]),
        ("hidden: [16]", "hidden: 16", ["hidden"]),
        ("hidden: [16]", "hidden: [a]", ["hidden", "expected int"]),
        ("name: digits", "name: digit", ["name", "digit"]),
        ("name: sgd", "name: sdg", ["optimiser", "sdg"]),
        ("batch: 50", "loss: hinge", ["loss", "hinge"]),
        ("name: sgd", "decay: exponential", ["optimiser", "decay 'exponential', final=0.0"]),
        ("name: sgd", "decay: steps", ["optimiser", r"decay 'steps', at=\(\)"]),
        ("epochs: 2, ", "", ["epochs", "required|missing"]),
        ("type: Magnitude", "type: Magnitud", ["unknown type 'Magnitud'", "did you mean 'Magnitude'", "recipe"]),
        ("type: MLP", "type: LeNet", ["unknown type 'LeNet'", "did you mean 'LeNet5'", "one: model"]),
        ("type: Magnitude, ", "", ["recipe"]),
        ("type: Magnitude", "type: MLP", ["recipe"]),
        ("type: Magnitude", "type: [Magnitude]", ["unknown type"]),
        ("stage: dense", "stage: dens", ["no stage 'dens'", "did you mean 'dense'"]),
        ("experiment: one", "experiment: onne", ["experiment 'onne'", "one"]),
        ("rows:", "rows: 3\nmore:", ["rows|more"]),
    ],
)
def test_what_does_not_fit_is_refused_with_file_and_key(tmp_path, old, new, texts):
    refused(changed(tmp_path, old, new), *texts)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("batch: 50", "batchsize: 50"),
        ("type: MLP", "type: LeNet"),
        ("stage: dense", "stage: dens"),
        ("experiment: one", "experiment: onne"),
    ],
)
def test_every_refusal_names_the_file(tmp_path, old, new):
    refused(changed(tmp_path, old, new), r"table\.yaml")


@pytest.mark.parametrize("text", ["a: [", "a: b: c", "\t- x", "a: !!python/object/apply:os.getcwd []"])
def test_what_is_not_plain_yaml_is_refused_with_the_file(tmp_path, text):
    refused(written(tmp_path, text), r"table\.yaml: not YAML")


@pytest.mark.parametrize("text", ["", "3", "[]", "text", "{}"])
def test_yaml_that_is_no_table_is_refused_with_the_file(tmp_path, text):
    refused(written(tmp_path, text), r"table\.yaml")


@pytest.mark.parametrize(
    "text, key", [("?", "None"), ("a: {? : 1}", "None"), ("1: 2", "1"), ("rows:\n- true: 1", "True")]
)
def test_keys_that_are_not_text_are_refused_with_the_file(tmp_path, text, key):
    refused(written(tmp_path, text), rf"table\.yaml.*: the key {key} is not text")


def test_file_that_is_not_text_is_refused_with_the_file(tmp_path):
    path = tmp_path / "table.yaml"
    path.write_bytes(b"\xff\xfe\x00\x81")
    refused(path, r"table\.yaml")


def test_experiment_without_stages_is_refused(tmp_path):
    table = yaml.safe_load(YAML)
    table["experiments"]["two"] = to_plain(TEACHER) | {"stages": []}
    refused(written(tmp_path, yaml.safe_dump(table)), "two", "stages")


def test_stages_of_one_name_are_refused(tmp_path):
    refused(changed(tmp_path, "name: small", "name: dense"), "dense")


def test_negative_epochs_are_refused(tmp_path):
    refused(changed(tmp_path, "epochs: 2", "epochs: -2"), "epochs")


# Overrides.


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("seeds=7", lambda t: t.seeds == 7),
        ("experiments.one.data.limit=10", lambda t: t.experiments["one"].data.limit == 10),
        ("experiments.*.data.limit=10", lambda t: t.experiments["one"].data.limit == 10),
        ("experiments.one.stages.*.epochs=9", lambda t: [s.epochs for s in t.experiments["one"].stages] == [9, 9]),
        ("experiments.one.stages.small.epochs=9", lambda t: [s.epochs for s in t.experiments["one"].stages] == [2, 9]),
        ("experiments.*.model={type: LeNet5}", lambda t: t.experiments["one"].model == LeNet5()),
        ("experiments.*.stages.*.recipe=[]", lambda t: t.experiments["one"].stages[1].recipe == ()),
        ("experiments.*.stages.dense.optimiser.learning_rate=1e-2", lambda t: _rate(t) == 0.01),
        ("table=a=b", lambda t: t.table == "a=b"),
    ],
)
def test_override_changes_the_table(tmp_path, override, read):
    assert read(load_table(written(tmp_path), (override,)))


def _rate(table):
    return table.experiments["one"].stages[0].optimiser.learning_rate


def test_later_overrides_win(tmp_path):
    assert load_table(written(tmp_path), ("seeds=7", "seeds=8")).seeds == 8


@pytest.mark.parametrize(
    ("override", "texts"),
    [
        ("seeds", ["'seeds' is not of the form a.b=value"]),
        ("experiments.two.seed=1", ["names nothing"]),
        ("experiments.one.stages.none.epochs=1", ["names nothing"]),
        ("experiments.*.datas.limit=1", ["names nothing"]),
        ("seeds.x=1", ["names nothing"]),
        ("experiments.one.sed=1", ["sed"]),
        ("seed=1", ["seed"]),
        ("seeds=many", ["seeds", "expected int"]),
        ("seeds=[", ["seeds"]),
        ("experiments.one.stages.small.recipe=[{type: Pruning}]", ["unknown type 'Pruning'"]),
    ],
)
def test_override_that_does_not_fit_is_refused(tmp_path, override, texts):
    refused(written(tmp_path), *texts, overrides=(override,))


# Fingerprints.

# Names of run folders, from the SHA-256 of the canonical form. Computed here on the first version of the format: a
# change renames every run there is, so that all of them are trained again. Change these numbers only on purpose.
FINGERPRINTS = {
    "mlp": (Experiment(Data("digits", 200), MLP((16,)), (Stage("dense", 2, 50),)), "62b6ce1b87b6"),
    "lenet": (
        Experiment(Data(), LeNet5(), (Stage("dense", 1), Stage("q", 1, recipe=(Weights(".*kernel", 4),))), 1),
        "e709c92108fc",
    ),
    "all": (EXPERIMENT, "30de2836d0c3"),
    # Computed before models had normalization, stages a loss, and rates other decays.
    "binary": (
        Experiment(
            Data(),
            MLP((1024,), 0.5),
            (
                Stage(
                    "s",
                    2,
                    optimiser=Optimiser("sgd", 0.02, "constant", 0.8, 5e-4),
                    recipe=(Binary("fc./kernel", stochastic=True),),
                    select="best-validation",
                ),
            ),
        ),
        "3eea39491b18",
    ),
}


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_fingerprints_are_those_of_the_first_version(name):
    experiment, expected = FINGERPRINTS[name]
    assert fingerprint(experiment) == expected


def test_fingerprint_does_not_see_how_the_config_was_written(tmp_path):
    short = load_table(written(tmp_path)).experiments["one"]
    spelled = changed(tmp_path, "learning_rate: 1e-3", "momentum: 0.9, decay: cosine, learning_rate: 0.001")
    assert fingerprint(load_table(spelled).experiments["one"]) == fingerprint(short)


@pytest.mark.parametrize(
    "override", ["seed=1", "data.validation=100", "data.limit=5", "stages.dense.batch=10", "model.dropout=0.5"]
)
def test_fingerprint_sees_what_changes_a_result(tmp_path, override):
    path = written(tmp_path)
    other = load_table(path, (f"experiments.one.{override}",)).experiments["one"]
    assert fingerprint(other) != fingerprint(load_table(path).experiments["one"])


def test_fingerprint_is_the_same_after_yaml():
    again = structure(yaml.safe_load(yaml.safe_dump(to_plain(EXPERIMENT))), Experiment, "test")
    assert fingerprint(again) == fingerprint(EXPERIMENT)
