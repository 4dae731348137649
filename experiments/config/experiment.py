"""Stages, and the experiments that they make up."""

from dataclasses import dataclass, field, replace
from typing import Literal, Union

from experiments.config.distillation import TEACHERLESS, Knowledge, Synthesis
from experiments.config.models import Data, Model, Pretrained
from experiments.config.pruning import Removal
from experiments.config.quantization import Activations
from experiments.config.roles import INITIAL, TRACED
from experiments.config.techniques import Technique
from jaxcompress.paths import did_you_mean


@dataclass(frozen=True)
class Rate:
    """Multiplies the learning rate of the parameters that `pattern` matches by a `factor`; 0 freezes them."""

    pattern: str
    factor: float = field(metadata=TRACED)

    def __post_init__(self) -> None:
        if self.factor < 0:
            raise ValueError(f"rate of {self.pattern!r}: factor={self.factor} is at least 0")


@dataclass(frozen=True)
class Optimiser:
    """An optimiser of optax with its learning rate and the `decay` of that over the stage.

    ``linear`` and ``cosine`` take it to zero by the end of the stage and ``exponential`` to `final`; ``steps``
    multiplies it by 0.1 after each of the epochs `at`. `momentum`, by Nesterov's rule if `nesterov`, is that of
    ``sgd``. `weight_decay` is L2 regularisation for ``sgd``, and decoupled (AdamW) for ``adam``. The `scaling`
    ``glorot`` divides the updates of each kernel by its coefficient of Glorot & Bengio (2010), as BinaryConnect does
    (Courbariaux et al. 2015, section 2.5). With a `max_norm` above 0 the weights that come into a unit are scaled down
    after every step to that length at most (Srebro & Shraibman 2005; Hinton et al. 2012, arXiv:1207.0580). What
    `rates` name learns faster, slower or not at all, each parameter by the first of them that matches it (Howard &
    Ruder 2018, arXiv:1801.06146, section 3.2).
    """

    name: Literal["adam", "sgd"] = "adam"
    learning_rate: float = field(default=1e-3, metadata=TRACED)
    decay: Literal["constant", "linear", "cosine", "exponential", "steps"] = "cosine"
    momentum: float = field(default=0.9, metadata=TRACED)
    weight_decay: float = field(default=0.0, metadata=TRACED)
    final: float = field(default=0.0, metadata=TRACED)
    at: tuple[float, ...] = ()
    scaling: Literal["none", "glorot"] = "none"
    nesterov: bool = False
    max_norm: float = 0.0
    rates: tuple[Rate, ...] = ()

    def __post_init__(self) -> None:
        if self.nesterov and self.name != "sgd":
            raise ValueError(f"nesterov is a momentum of 'sgd', not of {self.name!r}")
        if self.max_norm < 0:
            raise ValueError(f"max_norm={self.max_norm} is a length of at least 0")
        exponential, steps = self.decay == "exponential", self.decay == "steps"
        if exponential != (self.final > 0) or self.final < 0:
            raise ValueError(f"decay {self.decay!r}, final={self.final}: 'exponential', and no other, needs final > 0")
        if steps != bool(self.at) or any(epoch <= 0 for epoch in self.at):
            raise ValueError(f"decay {self.decay!r}, at={self.at}: 'steps', and no other, needs epochs above 0")


@dataclass(frozen=True)
class Distill:
    """Knowledge distillation: `weight` of the loss from the `teacher`'s softened outputs, the rest from the labels.

    To that come the losses of `knowledge`, each with a weight of its own; some need no teacher. The outputs of more
    teachers, an `ensemble`, are averaged with the teacher's, as probabilities at the `temperature`; activations are
    those of the teacher alone. The student is shown the training images of the `classes` alone, or all where there are
    none, as its transfer set; with a `synthesis` the images are made from the teacher, and the training set is not
    used. With `views` a stage that augments shows every image in so many ways alone, one in each epoch and again from
    the first, of all of which the teachers are asked once (Beyer et al. 2022, arXiv:2106.05237, draw new ones).
    """

    teacher: "Experiment | None" = None
    temperature: float = field(default=4.0, metadata=TRACED)
    weight: float = field(default=0.9, metadata=TRACED)
    knowledge: tuple[Knowledge, ...] = ()
    classes: tuple[int, ...] = ()
    ensemble: tuple["Experiment", ...] = ()
    synthesis: Synthesis | None = None
    views: int = 0

    def __post_init__(self) -> None:
        if not self.temperature > 0 or not 0 <= self.weight <= 1:
            given = f"temperature={self.temperature}, weight={self.weight}"
            raise ValueError(f"distill: {given}; temperatures are above 0, weights from 0 to 1")
        if self.views < 0 or (self.views and (self.teacher is None or self.classes)):
            given = f"views={self.views}, classes={list(self.classes)}, {len(self.teachers)} teachers"
            raise ValueError(f"distill: {given}; views are at least 0, and 0 without a teacher or with classes")
        needs = [type(spec).__name__ for spec in self.knowledge if not isinstance(spec, TEACHERLESS)]
        if self.teacher is None and (self.weight or needs or self.ensemble or self.synthesis):
            names = ", ".join(kind.__name__ for kind in TEACHERLESS)
            raise ValueError(
                f"distill without a teacher: weight={self.weight}, knowledge {needs}, {len(self.ensemble)} more"
                f" teachers; the weight is then 0, there is no ensemble and no synthesis, and knowledge is of {names}"
            )

    @property
    def teachers(self) -> tuple["Experiment", ...]:
        """All teachers, the one whose activations are heard first."""
        return () if self.teacher is None else (self.teacher, *self.ensemble)


@dataclass(frozen=True)
class LC:
    """The LC algorithm: L steps of `epochs`, the first of `first`, with a C step after each.

    The penalty has a `strength` that every C step multiplies by `growth`.
    """

    strength: float
    growth: float
    epochs: int
    first: int

    def __post_init__(self) -> None:
        if not (self.strength > 0 and self.growth >= 1 and self.epochs > 0 and self.first > 0):
            counts = f"strength={self.strength}, growth={self.growth}, epochs={self.epochs}, first={self.first}"
            raise ValueError(f"lc: {counts}; strength is above 0, growth at least 1, epochs and first above 0")


@dataclass(frozen=True)
class Offset:
    """Adds a `shift` to the biases of some `classes` in the last layer, whose bias is the parameter `bias`.

    Without a number it is the one between -20 and 20, in tenths, that leaves the fewest errors on the validation
    examples, the smallest of equals. So a student is corrected for classes that its transfer set had too few or too
    many of (Hinton et al. 2015, arXiv:1503.02531, section 3).
    """

    bias: str
    classes: tuple[int, ...]
    shift: float | None = None


Augmentation = Literal["flip", "crop", "jitter"]


@dataclass(frozen=True)
class Stage:
    """Trains for `epochs` under a recipe, on top of the stage before it.

    The `loss` is the ``cross-entropy`` of softmax, or the ``square-hinge`` of one L2-SVM for each class.
    `select` declares which parameters the stage hands on: those of the ``last`` epoch or those with the
    ``best-validation`` error (the first of equals). The test set is never used to choose. `verify` declares the slice
    that ``scripts/verify.py`` trains again: so many epochs from the start of the stage. What rounds `activations` in
    one stage does so in those after it.

    With `rewind` the recipe is applied to what the stage before made, and its masks are then put on other weights: the
    ``initial`` ones, ``random`` ones drawn anew, or those that an earlier stage, by name, handed on.

    `remove` takes channels away at the start of the stage, before its recipe is applied, and `offset` shifts biases
    there. `slimming` is the strength of the penalty on the scales of normalizations by which network slimming finds
    them (Liu et al. 2017).

    With `lc` the recipe is no part of the training: it is the C step of the LC algorithm, applied to plain weights
    again and again, and training is drawn to what it made.

    Training images are changed at random by the methods of `augment` (`experiments.augmentation`), and a teacher then
    sees what its student sees.
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
    rewind: str | None = field(default=None, metadata=INITIAL)
    remove: Removal | None = field(default=None, metadata=INITIAL)
    slimming: float = field(default=0.0, metadata=TRACED)
    augment: tuple[Augmentation, ...] = ()
    lc: LC | None = None
    offset: Offset | None = field(default=None, metadata=INITIAL)

    def __post_init__(self) -> None:
        if self.lc is not None and (self.epochs < self.lc.first or (self.epochs - self.lc.first) % self.lc.epochs):
            spread = f"first={self.lc.first} and then any number of times epochs={self.lc.epochs}"
            raise ValueError(f"stage {self.name!r}: epochs={self.epochs} must be lc's {spread}")
        others = self.rewind or self.remove or self.offset or self.select != "last"
        if self.lc is not None and (others or not self.recipe):
            raise ValueError(
                f"stage {self.name!r} with lc needs a recipe and goes with no rewind, remove, offset or selection"
            )
        if self.lc is not None and self.distill is not None and self.distill.knowledge:
            raise ValueError(f"stage {self.name!r}: lc goes with distillation from logits alone, not with knowledge")
        if self.distill is not None and self.distill.synthesis and self.select != "last":
            raise ValueError(f"stage {self.name!r}: with a synthesis no data are used, nor can they select an epoch")
        if self.distill is not None and self.distill.views and not self.augment:
            raise ValueError(f"stage {self.name!r}: distill has {self.distill.views} views of what nothing augments")
        if self.slimming < 0:
            raise ValueError(f"stage {self.name!r}: slimming={self.slimming} is a strength of at least 0")
        if self.epochs < 0 or self.batch < 1 or self.verify < 0:
            counts = f"epochs={self.epochs}, batch={self.batch}, verify={self.verify}"
            raise ValueError(f"stage {self.name!r}: {counts}; epochs and verify are at least 0, batch at least 1")


Preparation = Literal["without-relu6", "equalize", "absorb-bias", "smoothquant", "awq"]


@dataclass(frozen=True)
class PostTraining:
    """Quantizes what the stage before it made, without training, to the integers of a device: a TFLite file.

    First the float weights are prepared, by the methods of `prepare` in order. Kernels get `bits` bits, one scale by
    `granularity`, rounded by `rounding`, or keep the integers that they were ``trained`` with; with a `budget`, bytes
    of all layers in the file, each gets 4 or 8 bits by how sensitive the outputs are to it. Activations get 8 bits in
    the ranges that a calibrator of `ranges` finds on `examples` training images drawn by the seed, or that were
    trained. Last `correct_bias` takes back the shift of every layer's mean. The methods are those of
    `jaxcompress.quantize` and `jaxcompress.budget`.
    """

    name: str
    bits: int = 8
    granularity: Literal["tensor", "channel"] = "channel"
    rounding: Literal["nearest", "gptq", "adaround", "brecq", "trained"] = "nearest"
    ranges: Literal["min-max", "moving-average", "percentile", "mse", "entropy"] = "min-max"
    examples: int = 1000
    prepare: tuple[Preparation, ...] = ()
    budget: int | None = None
    correct_bias: Literal["none", "analytic", "empirical"] = "none"

    def __post_init__(self) -> None:
        changes = self.prepare or self.budget is not None or self.correct_bias != "none"
        if self.rounding == "trained" and changes:
            raise ValueError(
                f"stage {self.name!r}: prepare, budget and correct_bias change weights; rounding 'trained' keeps them"
            )
        if not 2 <= self.bits <= 8 or self.examples < 1:
            counts = f"bits={self.bits}, examples={self.examples}"
            raise ValueError(f"stage {self.name!r}: {counts}; bits are from 2 to 8, examples at least 1")


AnyStage = Union[Stage, PostTraining]  # noqa: UP007


@dataclass(frozen=True)
class Transfer:
    """Starts from what the experiment `source` made, on other data; parameters that `head` matches are drawn anew."""

    source: "Experiment"
    head: str


@dataclass(frozen=True)
class Experiment:
    """A model trained on data by a chain of stages, from one seed, from published weights or from another's."""

    data: Data
    model: Model
    stages: tuple[AnyStage, ...]
    seed: int = field(default=0, metadata=TRACED)
    pretrained: Pretrained | None = field(default=None, metadata=INITIAL)
    transfer: Transfer | None = field(default=None, metadata=INITIAL)

    def __post_init__(self) -> None:
        if self.transfer is not None and self.pretrained is not None:
            raise ValueError("an experiment starts from published weights or from another experiment, not from both")
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"an experiment needs stages, each of another name, not {names}")
        if any(isinstance(stage, PostTraining) for stage in self.stages[:-1]) or isinstance(
            self.stages[0], PostTraining
        ):
            raise ValueError("a PostTraining stage stands last in an experiment, on top of another")
        if any(_removes(stage) for stage in self.stages) and any(getattr(s, "rewind", None) for s in self.stages):
            raise ValueError("an experiment that removes channels cannot rewind: earlier weights still have them")
        for index, stage in enumerate(self.stages):
            known = ["initial", "random", *names[:index]]
            if isinstance(stage, Stage) and stage.rewind is not None and (stage.rewind not in known or not index):
                raise ValueError(
                    f"stage {stage.name!r} rewinds to {stage.rewind!r}; a later stage can, to one of {', '.join(known)}"
                )

    @property
    def activations(self) -> Activations | None:
        """What rounds the activations after the last stage: that of the latest stage that has any."""
        found = [stage.activations for stage in self.stages if isinstance(stage, Stage) and stage.activations]
        return found[-1] if found else None

    @property
    def training(self) -> Stage:
        """The last stage, as one that trains; raises ValueError if it does not."""
        stage = self.stages[-1]
        if not isinstance(stage, Stage):
            raise ValueError(f"stage {stage.name!r} does not train")
        return stage

    def until(self, stage: str) -> "Experiment":
        """Returns the experiment that ends with the stage of that name; raises ValueError if there is none."""
        names = [s.name for s in self.stages]
        if stage not in names:
            raise ValueError(f"no stage {stage!r}{did_you_mean(stage, names)}; there are {', '.join(names)}")
        return replace(self, stages=self.stages[: names.index(stage) + 1])


def _removes(stage: AnyStage) -> bool:
    return isinstance(stage, Stage) and stage.remove is not None
