"""Times variants against each other on a machine that others use too.

Its speed drifts, so times of different minutes do not compare. Variants therefore take turns, in rounds of shuffled
order, and a row is the median over rounds of the ratio within a round.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

PAUSE = 0.01  # seconds before a measurement, in which the threads of the variant before stop spinning

Milliseconds = dict[str, np.ndarray]


@dataclass(frozen=True)
class Effort:
    """Says how much is measured: rounds, batch size, steps in a scan, and the shapes of the weights to mask.

    Decompositions of `matrices` and of the convolution kernel `kernel`, of a `rank`, take turns `decompositions` times.
    `calls` is how many of the shortest steps, those of LeNet-300-100, make one measurement. A TFLite file runs in
    `interpreters` fresh processes, `invokes` times in each. A memory of contrastive distillation holds so many
    `examples`, of which every example of a batch has so many `negatives`. A sweep has so many `sparsities` and `seeds`,
    and epochs of so many `steps`; its command trains the experiment of the config `swept`.
    """

    rounds: int = 15
    batch: int = 100
    calls: int = 10
    scanned: int = 3
    weights: tuple[tuple[int, ...], ...] = ((784, 300), (3, 3, 512, 512))
    interpreters: int = 5
    invokes: int = 200
    matrices: tuple[tuple[int, int], ...] = ((512, 512), (4096, 1000))
    kernel: tuple[int, int, int, int] = (3, 3, 512, 512)
    rank: int = 64
    decompositions: int = 5
    examples: int = 50_000
    negatives: int = 4096
    sparsities: int = 8
    seeds: int = 4
    steps: int = 100
    swept: str = "paper_configs/sparsity/lenet_300_100.yaml"


QUICK = Effort(
    rounds=3,
    batch=10,
    calls=1,
    scanned=2,
    weights=((30, 20), (3, 3, 8, 8)),
    interpreters=1,
    invokes=5,
    matrices=((16, 12),),
    kernel=(3, 3, 8, 8),
    rank=3,
    decompositions=1,
    examples=200,
    negatives=4,
    sparsities=2,
    seeds=1,
    steps=3,
    swept="paper_configs/sparsity/digits.yaml",
)


@dataclass(frozen=True)
class Row:
    """Compares the time of `variant` with that of `against`: median and quartiles of the ratio within a round.

    `difference` says how far the variant's result is from what it has to equal: in the loss, in mask entries or output
    codes, or as a share of the outputs.
    """

    subject: str
    variant: str
    against: str
    ratio: float
    low: float
    high: float
    milliseconds: float
    against_milliseconds: float
    difference: float


@dataclass(frozen=True)
class File:
    """Describes a TFLite file of `subject`: who wrote it and in what time, its bytes, how it runs in LiteRT.

    `error` is how far its outputs are from those in floats: the root of the mean square, as a share of the outputs'.
    """

    subject: str
    writer: str
    milliseconds: float
    bytes: int
    median_us: float
    min_us: float
    error: float


class Report(NamedTuple):
    """Holds the rows, a line for what could not be measured here, and the files that were compared."""

    rows: list[Row]
    notes: list[str]
    files: Sequence[File] = ()


def race(variants: Mapping[str, Callable[[], Any]], rounds: int, calls: int = 1) -> Milliseconds:
    """Times every variant once a round, `calls` calls at a time; returns milliseconds a call, shape (rounds,)."""
    if rounds < 1:
        raise ValueError(f"{rounds} rounds are too few; a ratio needs at least 1")
    for call in variants.values():
        jax.block_until_ready(call())  # compiles
    names, shuffle = list(variants), random.Random(0).shuffle
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        shuffle(names)
        for name in names:
            times[name].append(_measured(variants[name], calls))
    return {name: np.array(found) for name, found in times.items()}


def row(subject: str, times: Milliseconds, variant: str, against: str, difference: float) -> Row:
    """Makes the row of two variants of a race."""
    low, ratio, high = np.percentile(times[variant] / times[against], [25, 50, 75]).tolist()
    milliseconds, against_milliseconds = (float(np.median(times[name])) for name in (variant, against))
    return Row(subject, variant, against, ratio, low, high, milliseconds, against_milliseconds, difference)


def _measured(call: Callable[[], Any], calls: int) -> float:
    time.sleep(PAUSE)
    start = time.perf_counter()
    for _ in range(calls):
        jax.block_until_ready(call())
    return 1e3 * (time.perf_counter() - start) / calls
