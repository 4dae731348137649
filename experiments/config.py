"""Configuration: frozen dataclasses, read from YAML strictly.

An experiment is a model, its data and a chain of training stages. A table is a paper's numbers and the experiments that
are to meet them. The classes are the documentation of the YAML: a field here is a key there, and where one of several
classes may stand the key ``type`` names it.
"""

import hashlib
import json
import pathlib
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, Union, get_args

import yaml
from cattrs import Converter, transform_error
from cattrs.strategies import configure_tagged_union
from cattrs.v import format_exception

from jaxcompress.paths import did_you_mean


@dataclass(frozen=True)
class Data:
    """Names a data set; `validation` training examples are held out, `limit` keeps only so many of each split."""

    name: Literal["digits", "mnist", "fashion-mnist", "cifar-10"] = "mnist"
    validation: int = 5000
    limit: int | None = None


@dataclass(frozen=True)
class MLP:
    """A multilayer perceptron; LeNet-300-100 by default.

    `norm` puts batch normalization after every layer. `initial` kernels are normal with a variance of one over their
    inputs, or ``uniform`` on [-1, 1), the range of BinaryConnect.
    """

    hidden: tuple[int, ...] = (300, 100)
    dropout: float = 0.0
    norm: bool = False
    initial: Literal["lecun", "uniform"] = "lecun"


@dataclass(frozen=True)
class LeNet5:
    """LeNet-5 as in Caffe; with `relu` a ReLU follows the convolutions too, which in Caffe are linear."""

    dropout: float = 0.0
    relu: bool = False


@dataclass(frozen=True)
class LeNet5BN:
    """The wider LeNet-5 with batch normalization of Li & Liu (2016)."""


@dataclass(frozen=True)
class ResNet8:
    """MLPerf Tiny's ResNet-8 with its batch normalization folded into the convolutions."""

    width: int = 16


@dataclass(frozen=True)
class Optimiser:
    """An optimiser of optax with its learning rate and the `decay` of that over the stage.

    ``linear`` and ``cosine`` take it to zero by the end of the stage and ``exponential`` to `final`; ``steps``
    multiplies it by 0.1 after each of the epochs `at`. `weight_decay` is L2 regularisation for ``sgd``, and decoupled
    (AdamW) for ``adam``. The `scaling` ``glorot`` divides the updates of each kernel by its coefficient of Glorot &
    Bengio (2010), as BinaryConnect does (Courbariaux et al. 2015, section 2.5).
    """

    name: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 1e-3
    decay: Literal["constant", "linear", "cosine", "exponential", "steps"] = "cosine"
    momentum: float = 0.9
    weight_decay: float = 0.0
    final: float = 0.0
    at: tuple[float, ...] = ()
    scaling: Literal["none", "glorot"] = "none"

    def __post_init__(self) -> None:
        exponential, steps = self.decay == "exponential", self.decay == "steps"
        if exponential != (self.final > 0) or self.final < 0:
            raise ValueError(f"decay {self.decay!r}, final={self.final}: 'exponential', and no other, needs final > 0")
        if steps != bool(self.at) or any(epoch <= 0 for epoch in self.at):
            raise ValueError(f"decay {self.decay!r}, at={self.at}: 'steps', and no other, needs epochs above 0")


@dataclass(frozen=True)
class Ramp:
    """Raises a value from `initial` between two points of a stage, both in epochs."""

    end: float
    begin: float = 0.0
    initial: float = 0.0
    shape: Literal["linear", "cubic"] = "cubic"


@dataclass(frozen=True)
class Magnitude:
    """Magnitude pruning to `sparsity`, at once or along a `ramp`, asked every `every` steps."""

    pattern: str
    sparsity: float
    ramp: Ramp | None = None
    scope: Literal["layer", "global"] = "layer"
    every: int = 50


@dataclass(frozen=True)
class Threshold:
    """Pruning below ``quality * std`` of each array (Han et al. 2015)."""

    pattern: str
    quality: float


@dataclass(frozen=True)
class Weights:
    """Affine fake quantization of weights."""

    pattern: str
    bits: int
    granularity: Literal["tensor", "channel"] = "channel"
    symmetric: bool = True


@dataclass(frozen=True)
class LSQ:
    """Quantization of weights with a learned step (Esser et al. 2020)."""

    pattern: str
    bits: int
    granularity: Literal["tensor", "channel"] = "tensor"


@dataclass(frozen=True)
class DoReFa:
    """Quantization of weights squashed by tanh (Zhou et al. 2016)."""

    pattern: str
    bits: int


@dataclass(frozen=True)
class Binary:
    """Weights of one bit, by BinaryConnect (Courbariaux et al. 2015) or XNOR-Net (Rastegari et al. 2016).

    `test` declares what the stage validates and hands on: the ``signs``, or the real ``weights`` behind them, for which
    the signs were noise of training (Courbariaux et al. 2015, section 2.6).
    """

    pattern: str
    method: Literal["binaryconnect", "xnor"] = "binaryconnect"
    stochastic: bool = False
    test: Literal["signs", "weights"] = "signs"


@dataclass(frozen=True)
class Ternary:
    """Weights of three values, by TWN (Li & Liu 2016) or trained ternary quantization (Zhu et al. 2017)."""

    pattern: str
    method: Literal["twn", "ttq"] = "twn"
    threshold: float | None = None


@dataclass(frozen=True)
class Codebook:
    """Weight sharing by k-means with ``2**bits`` values an array."""

    pattern: str
    bits: int
    initial: Literal["linear", "density", "random"] = "linear"


@dataclass(frozen=True)
class SVD:
    """Truncated singular value decomposition by `rank` or `energy`."""

    pattern: str
    rank: int | None = None
    energy: float | None = None


Model = Union[MLP, LeNet5, LeNet5BN, ResNet8]  # noqa: UP007 (cattrs reads the members of a Union)
Technique = Union[Magnitude, Threshold, Weights, LSQ, DoReFa, Binary, Ternary, Codebook, SVD]  # noqa: UP007


@dataclass(frozen=True)
class Distill:
    """Knowledge distillation: `weight` of the loss from the `teacher`'s softened outputs, the rest from the labels."""

    teacher: "Experiment"
    temperature: float = 4.0
    weight: float = 0.9


@dataclass(frozen=True)
class Activations:
    """Rounds the activations of the tensors that `pattern` matches to `bits` bits, in ranges that are trained.

    The methods are those of `jaxcompress.quantize.quantizers`; tensors are named as `jaxcompress.read` names them.
    """

    pattern: str
    bits: int
    method: Literal["lsq", "lsq-plus", "pact", "dorefa"] = "lsq"


@dataclass(frozen=True)
class Stage:
    """Trains for `epochs` under a recipe, on top of the stage before it.

    The `loss` is the ``cross-entropy`` of softmax, or the ``square-hinge`` of one L2-SVM for each class.
    `select` declares which parameters the stage hands on: those of the ``last`` epoch or those with the
    ``best-validation`` error (the first of equals). The test set is never used to choose. `verify` declares the slice
    that ``scripts/verify.py`` trains again: so many epochs from the start of the stage. What rounds `activations` in
    one stage does so in those after it.
    """

    name: str
    epochs: int
    batch: int = 100
    optimiser: Optimiser = Optimiser()
    recipe: tuple[Technique, ...] = ()
    distill: Distill | None = None
    select: Literal["last", "best-validation"] = "last"
    verify: int = 1
    loss: Literal["cross-entropy", "square-hinge"] = "cross-entropy"
    activations: Activations | None = None

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.batch < 1 or self.verify < 0:
            counts = f"epochs={self.epochs}, batch={self.batch}, verify={self.verify}"
            raise ValueError(f"stage {self.name!r}: {counts}; epochs and verify are at least 0, batch at least 1")


@dataclass(frozen=True)
class PostTraining:
    """Quantizes what the stage before it made, without training, to the integers of a device: a TFLite file.

    Kernels get `bits` bits, one scale by `granularity`, rounded by `rounding`, or keep the integers that they were
    ``trained`` with; activations 8 bits in the ranges that a calibrator of `ranges` finds on `examples` training images
    drawn by the seed, or that were trained.
    """

    name: str
    bits: int = 8
    granularity: Literal["tensor", "channel"] = "channel"
    rounding: Literal["nearest", "gptq", "adaround", "trained"] = "nearest"
    ranges: Literal["min-max", "moving-average", "percentile", "mse", "entropy"] = "min-max"
    examples: int = 1000

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8 or self.examples < 1:
            counts = f"bits={self.bits}, examples={self.examples}"
            raise ValueError(f"stage {self.name!r}: {counts}; bits are from 2 to 8, examples at least 1")


AnyStage = Union[Stage, PostTraining]  # noqa: UP007


@dataclass(frozen=True)
class Pretrained:
    """Names a published TFLite file to start from, and the largest value that its model takes where ours takes 1."""

    file: Literal["mlperf-tiny/pretrainedResnet.tflite"]
    input_range: float = 1.0


@dataclass(frozen=True)
class Experiment:
    """A model trained on data by a chain of stages, from one seed or from published weights."""

    data: Data
    model: Model
    stages: tuple[AnyStage, ...]
    seed: int = 0
    pretrained: Pretrained | None = None

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"an experiment needs stages, each of another name, not {names}")
        if any(isinstance(stage, PostTraining) for stage in self.stages[:-1]) or isinstance(
            self.stages[0], PostTraining
        ):
            raise ValueError("a PostTraining stage stands last in an experiment, on top of another")

    @property
    def activations(self) -> Activations | None:
        """What rounds the activations after the last stage: that of the latest stage that has any."""
        found = [stage.activations for stage in self.stages if isinstance(stage, Stage) and stage.activations]
        return found[-1] if found else None

    def until(self, stage: str) -> "Experiment":
        """Returns the experiment that ends with the stage of that name; raises ValueError if there is none."""
        names = [s.name for s in self.stages]
        if stage not in names:
            raise ValueError(f"no stage {stage!r}{did_you_mean(stage, names)}; there are {', '.join(names)}")
        return replace(self, stages=self.stages[: names.index(stage) + 1])


@dataclass(frozen=True)
class Row:
    """One number of a paper's table, where ours is measured, and how near is near enough.

    `metric` is a name of `experiments.tables.METRICS`; with `leaf` it is of that parameter alone. The verdict is
    ``reproduced`` within `tolerance` of the paper's number, and beyond that ``better`` or ``worse`` by `better`.
    """

    row: str
    metric: str
    experiment: str
    stage: str
    paper: float | None = None
    tolerance: float = 0.0
    better: Literal["lower", "higher"] = "lower"
    leaf: str | None = None


@dataclass(frozen=True)
class Table:
    """A paper's table and the experiments that are to meet it.

    `differs` says in words what is not as in the paper, `expected_minutes` how long the whole table took on two cores.
    """

    paper: str
    table: str
    experiments: dict[str, Experiment]
    rows: tuple[Row, ...]
    seeds: int = 3
    expected_minutes: float = 1.0
    differs: str = ""


def load_table(path: str | pathlib.Path, overrides: tuple[str, ...] = ()) -> Table:
    """Reads a table from YAML after applying `overrides` such as ``experiments.*.data.limit=2000``.

    Where an experiment (or a teacher) is a string it is the path of another YAML file, relative to this one. Raises
    ValueError, naming file and key, for anything that does not fit the classes above.
    """
    document = _read(pathlib.Path(path))
    for override in overrides:
        _override(document, override)
    table = structure(document, Table, str(path))
    for row in table.rows:
        if row.experiment not in table.experiments:
            known = list(table.experiments)
            raise ValueError(f"{path}: row {row.row!r} is of experiment {row.experiment!r}; there are {known}")
        try:
            table.experiments[row.experiment].until(row.stage)
        except ValueError as error:
            raise ValueError(f"{path}: row {row.row!r}: {error}") from error
    return table


def structure(document: Any, cls: Any, source: str) -> Any:
    """Turns plain YAML types into a class of this module; raises ValueError that names `source` and the keys."""
    _check_types(document, source)
    try:
        return _converter().structure(document, cls)
    except Exception as error:  # cattrs raises groups of many kinds; all of them mean that the document does not fit
        raise ValueError(
            "\n  ".join([f"{source}:", *transform_error(error, path="config", format_exception=_explained)])
        ) from error


def to_plain(config: Any) -> Any:
    """Turns a configuration into plain YAML types, leaving defaults out: its canonical form."""
    return _converter().unstructure(config)


def fingerprint(experiment: Experiment) -> str:
    """Returns twelve hexadecimal digits that name an experiment: the SHA-256 of its canonical form."""
    text = json.dumps(to_plain(experiment), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@cache
def _converter() -> Converter:
    converter = Converter(forbid_extra_keys=True, omit_if_default=True)
    converter.register_structure_hook(float, lambda value, _: _number(value))
    converter.register_structure_hook(int, lambda value, _: _exactly(value, int))
    converter.register_structure_hook(bool, lambda value, _: _exactly(value, bool))
    converter.register_structure_hook(str, lambda value, _: _exactly(value, str))
    for union in (Model, Technique):
        configure_tagged_union(union, converter, tag_name="type")
    configure_tagged_union(AnyStage, converter, tag_name="type", default=Stage)
    converter.register_unstructure_hook(AnyStage, _plain_stage)
    return converter


def _plain_stage(stage: AnyStage) -> dict[str, Any]:
    """Leaves the type out of the plain form of a stage that trains, as of all defaults."""
    plain = _converter().unstructure(stage, type(stage))
    return plain if isinstance(stage, Stage) else plain | {"type": type(stage).__name__}


def _number(value: Any) -> float:
    if isinstance(value, str):  # YAML 1.1 reads 1e-3, without a point, as text
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def _exactly(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{value!r} is not of type {kind.__name__}")
    return value


def _explained(error: BaseException, kind: Any) -> str:
    """Adds to cattrs' words those of the checks of this module."""
    words = format_exception(error, kind)
    return f"{words}: {error}" if type(error) is ValueError else words


def _check_types(document: Any, source: str) -> None:
    """Refuses an unknown ``type:`` before cattrs, which would only print the tag."""
    known = [cls.__name__ for union in (Model, Technique, AnyStage) for cls in get_args(union)]
    if isinstance(document, dict):
        name = document.get("type")
        if name is not None and name not in known:
            raise ValueError(f"{source}: unknown type {name!r}{did_you_mean(str(name), known)}; there are {known}")
        for key, value in document.items():
            _check_types(value, f"{source}: {key}")
    if isinstance(document, list):
        for value in document:
            _check_types(value, source)


def _read(path: pathlib.Path, above: tuple[pathlib.Path, ...] = ()) -> Any:
    """Reads a YAML file and the files that it names, `above` being those that name it."""
    if path.resolve() in above:
        raise ValueError(f"{path}: includes itself")
    try:
        document = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not YAML: {error}") from error
    return _included(document, path.parent, (*above, path.resolve()))


def _included(document: Any, folder: pathlib.Path, above: tuple[pathlib.Path, ...]) -> Any:
    """Replaces the file name of an experiment or a teacher by the file's content."""

    def visit(value: Any) -> Any:
        return _included(value, folder, above)

    def named(value: Any) -> Any:
        return _read(folder / value, above) if isinstance(value, str) else visit(value)

    if isinstance(document, list):
        return [visit(value) for value in document]
    if not isinstance(document, dict):
        return document
    filled = {key: named(value) if key == "teacher" else visit(value) for key, value in document.items()}
    if isinstance(document.get("experiments"), dict):
        filled["experiments"] = {name: named(value) for name, value in document["experiments"].items()}
    return filled


def _override(document: Any, override: str) -> None:
    path, sign, text = override.partition("=")
    if not sign:
        raise ValueError(f"--set {override!r} is not of the form a.b=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"--set {override!r}: {text!r} is not YAML: {error}") from error
    *parents, last = path.split(".")
    places = [document]
    for key in parents:
        places = [child for place in places for child in _children(place, key)]
    hit = False
    for place in places:
        for key in _keys(place, last):
            place[key] = value
            hit = True
    if not hit:
        raise ValueError(f"--set {override!r} names nothing in the config")


def _children(place: Any, key: str) -> list[Any]:
    if isinstance(place, list):
        named = [item for item in place if isinstance(item, dict) and item.get("name") == key]
        return list(place) if key == "*" else named
    if isinstance(place, dict):
        return list(place.values()) if key == "*" else [place[key]] if key in place else []
    return []


def _keys(place: Any, key: str) -> list[Any]:
    if not isinstance(place, dict):
        return []
    return list(place) if key == "*" else [key]
