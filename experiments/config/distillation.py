"""What a student learns besides the labels, and of which images.

Features and embeddings are named as `jaxcompress.taps` names them; in the models here these are layers and blocks
(``conv1``, ``block2``), and their inputs (``fc:input``).
"""

from dataclasses import dataclass, field
from typing import Literal, Union

from experiments.config.models import Model
from experiments.config.roles import TRACED


@dataclass(frozen=True)
class KD:
    """Softened logits (`jaxcompress.distill.kd`), added to the whole loss of the labels by a weight of its own."""

    weight: float = field(default=1.0, metadata=TRACED)
    temperature: float = field(default=4.0, metadata=TRACED)


@dataclass(frozen=True)
class DKD:
    """Decoupled distillation, weighed by `weight` as all of these are (`jaxcompress.distill.dkd`)."""

    weight: float = field(default=1.0, metadata=TRACED)
    temperature: float = field(default=4.0, metadata=TRACED)
    alpha: float = field(default=1.0, metadata=TRACED)
    beta: float = field(default=8.0, metadata=TRACED)


@dataclass(frozen=True)
class DIST:
    """Correlations of softened outputs (`jaxcompress.distill.dist`)."""

    weight: float = field(default=1.0, metadata=TRACED)
    temperature: float = field(default=1.0, metadata=TRACED)
    inter: float = field(default=1.0, metadata=TRACED)
    intra: float = field(default=1.0, metadata=TRACED)


@dataclass(frozen=True)
class NKD:
    """Normalized distillation (`jaxcompress.distill.nkd`)."""

    weight: float = field(default=1.0, metadata=TRACED)
    temperature: float = field(default=1.0, metadata=TRACED)
    gamma: float = field(default=1.5, metadata=TRACED)


@dataclass(frozen=True)
class StandardizedKD:
    """Distillation from standardized logits (`jaxcompress.distill.standardized`)."""

    weight: float = field(default=1.0, metadata=TRACED)
    temperature: float = field(default=2.0, metadata=TRACED)


@dataclass(frozen=True)
class TeacherFree:
    """Distillation from a teacher made by hand (`jaxcompress.distill.teacher_free`)."""

    weight: float = field(default=0.1, metadata=TRACED)
    correct: float = 0.99
    temperature: float = field(default=20.0, metadata=TRACED)


@dataclass(frozen=True)
class Features:
    """A loss of features, added over pairs of the `student`'s and the `teacher`'s; ``fsp`` pairs up neighbours.

    What a loss trains beside the student is drawn by the seed. The paraphraser of ``factor-transfer`` is trained first,
    for 500 steps.
    """

    loss: Literal[
        "hint",
        "attention",
        "fsp",
        "nst",
        "vid",
        "activation-boundary",
        "overhaul",
        "factor-transfer",
        "review",
    ]
    student: tuple[str, ...]
    teacher: tuple[str, ...]
    weight: float = field(default=1.0, metadata=TRACED)

    def __post_init__(self) -> None:
        if len(self.student) != len(self.teacher) or len(self.student) < (2 if self.loss == "fsp" else 1):
            counts = f"{len(self.student)} features of the student, {len(self.teacher)} of the teacher"
            raise ValueError(f"{self.loss}: {counts}; there must be as many of each, one at least and two for fsp")


@dataclass(frozen=True)
class Relations:
    """A loss of how the examples of a batch lie to each other, by an embedding of each network."""

    loss: Literal["rkd-distance", "rkd-angle", "similarity", "correlation-congruence", "pkt"]
    student: str
    teacher: str
    weight: float = field(default=1.0, metadata=TRACED)


@dataclass(frozen=True)
class Contrast:
    """A contrastive loss of an embedding of each network, which regressors map to so many `features`.

    ``crd`` draws `negatives` of other classes for every example from a memory; ``in-batch`` has those of the batch.
    """

    loss: Literal["crd", "in-batch"]
    student: str
    teacher: str
    weight: float = field(default=1.0, metadata=TRACED)
    features: int = 128
    negatives: int = 16384
    temperature: float = field(default=0.07, metadata=TRACED)

    def __post_init__(self) -> None:
        if not (self.features > 0 and self.negatives > 0 and self.temperature > 0):
            given = f"features={self.features}, negatives={self.negatives}, temperature={self.temperature}"
            raise ValueError(f"{self.loss}: {given} must be positive")


@dataclass(frozen=True)
class Mutual:
    """Trains `peers` beside the student, each by what all others say (`jaxcompress.distill.online.mutual`).

    They see the same batches, learn from the labels too and are left behind at the end of the stage. The `weight` is
    that of the divergences. Departure from Zhang et al. (2018): all move at once, where theirs take turns. Peers have
    the student's optimiser, without what names, scales or bounds its weights.
    """

    peers: tuple[Model, ...]
    weight: float = field(default=1.0, metadata=TRACED)

    def __post_init__(self) -> None:
        if not self.peers:
            raise ValueError("mutual: there are no peers; a student needs at least one")
        if any(getattr(peer, "center", False) for peer in self.peers):
            raise ValueError("mutual: a peer cannot have center, the statistics of a training set")


@dataclass(frozen=True)
class Branches:
    """Puts `branches` more classifiers on the student's activation `at`; a gate makes a teacher of them and of it.

    That is `jaxcompress.distill.online.ensemble`, weighed by `weight`; branches and ensemble learn from the labels
    too. Departures from Lan et al. (2018): a branch is two layers, every place alike, in front of a mean over the
    places and a linear classifier, not a copy of the student's end, and the gate has no normalization and no ReLU.
    """

    at: str
    branches: int = 2
    weight: float = field(default=1.0, metadata=TRACED)
    temperature: float = field(default=3.0, metadata=TRACED)

    def __post_init__(self) -> None:
        if self.branches < 1 or not self.temperature > 0:
            given = f"branches={self.branches}, temperature={self.temperature}"
            raise ValueError(f"branches at {self.at!r}: {given}; branches are at least 1, temperatures above 0")


@dataclass(frozen=True)
class Exits:
    """Puts classifiers on early activations `at` of the student, taught by its own end.

    That is `jaxcompress.distill.online.own_teacher`. Their features are drawn to those of the student's activation
    `last` by the weight `hint`, their outputs to the student's by `soft` and to the labels by the rest; all of that has
    the `weight`. Departures from Zhang et al. (2019): an exit is what a branch is in `Branches`, and hints are between
    means over the places and are themselves means over the channels, not sums.
    """

    at: tuple[str, ...]
    last: str
    weight: float = field(default=1.0, metadata=TRACED)
    temperature: float = field(default=3.0, metadata=TRACED)
    soft: float = field(default=0.3, metadata=TRACED)
    hint: float = field(default=0.03, metadata=TRACED)

    def __post_init__(self) -> None:
        if not self.at or not self.temperature > 0 or not 0 <= self.soft <= 1 or self.hint < 0:
            given = f"at={list(self.at)}, temperature={self.temperature}, soft={self.soft}, hint={self.hint}"
            raise ValueError(
                f"exits: {given}; there is at least one, temperatures are above 0, soft is from 0 to 1, hint at least 0"
            )


@dataclass(frozen=True)
class Synthesis:
    """Makes a transfer set of so many `images` from the teacher alone, in batches; a student then never sees the data.

    By ``inversion`` noise descends to what the teacher tells apart, and whose statistics are those of its batch
    normalization; by ``generator`` one is trained for what the teacher tells apart, is stirred by in its `features` and
    sees all classes of. Both take so many Adam `steps`; the losses, in `jaxcompress.distill.data_free`, have weights by
    their names.
    """

    method: Literal["inversion", "generator"]
    images: int = 2000
    batch: int = 100
    steps: int = 500
    learning_rate: float = 0.05
    normalization: float = 1.0
    total_variation: float = 1e-3
    activation: float = 0.1
    balance: float = 5.0
    features: str | None = None

    def __post_init__(self) -> None:
        if (self.features is not None) != (self.method == "generator"):
            given = f"features={self.features!r}"
            raise ValueError(f"synthesis by {self.method}: {given}; a generator needs them, and nothing else does")
        if min(self.images, self.batch, self.steps) < 1 or not self.learning_rate > 0:
            counts = f"images={self.images}, batch={self.batch}, steps={self.steps}, rate={self.learning_rate}"
            raise ValueError(f"synthesis by {self.method}: {counts}; all are above 0")
        if min(self.normalization, self.total_variation, self.activation, self.balance) < 0:
            weights = f"normalization={self.normalization}, total_variation={self.total_variation}"
            weights += f", activation={self.activation}, balance={self.balance}"
            raise ValueError(f"synthesis by {self.method}: {weights}; weights are at least 0")


_Logits = Union[KD, DKD, DIST, NKD, StandardizedKD, TeacherFree]  # noqa: UP007
_Online = Union[Mutual, Branches, Exits]  # noqa: UP007
Knowledge = Union[_Logits, Features, Relations, Contrast, _Online]  # noqa: UP007 (cattrs reads the members of a Union)
TEACHERLESS = (TeacherFree, Mutual, Branches, Exits)  # what a student learns with no teacher
