"""Pictures of results."""

import math
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from experiments.disk import writing
from experiments.results import Result, Spread

# For the pictures of every run: a constrained layout draws each of them twice.
_MARGINS = {"left": 0.14, "right": 0.87, "bottom": 0.14, "top": 0.96}


def training_curves(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Draws loss and validation error by epoch."""
    figure, axes = plt.subplots(figsize=(6, 3.5), gridspec_kw=_MARGINS)
    epochs = [row["epoch"] for row in rows]
    axes.semilogy(epochs, [row["loss"] for row in rows], color="tab:blue", label="training loss")
    axes.set(xlabel="epoch", ylabel="training loss")
    if rows and rows[-1]["validation_error"] is not None:
        right = axes.twinx()
        right.plot(epochs, [row["validation_error"] for row in rows], color="tab:orange", label="validation error")
        right.set_ylabel("validation error, %")
    figure.legend(loc="upper right", bbox_to_anchor=(0.85, 0.95))
    _write(figure, path)


def confusion_matrix(confusion: list[list[int]], path: pathlib.Path) -> None:
    """Draws a confusion matrix, counts on a logarithmic scale so that the rare mistakes show."""
    figure, axes = plt.subplots(figsize=(4.5, 4), gridspec_kw=_MARGINS)
    image = axes.imshow([[max(count, 0.5) for count in row] for row in confusion], norm="log", cmap="Blues")
    for i, row in enumerate(confusion):
        for j, count in enumerate(row):
            if count:
                axes.text(j, i, str(count), ha="center", va="center", fontsize=6, color="white" if i == j else "black")
    axes.set(xlabel="predicted", ylabel="true", xticks=range(len(confusion)), yticks=range(len(confusion)))
    figure.colorbar(image, ax=axes, label="test images", shrink=0.8)
    _write(figure, path)


def bytes_and_accuracy(points: list[tuple[str, int, float]], path: pathlib.Path) -> None:
    """Draws models by the bytes of their packed file and their accuracy in %."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, size, accuracy in points:
        axes.scatter(size, accuracy, s=60)
        axes.annotate(f"{name}, {size:,} B", (size, accuracy), xytext=(6, 6), textcoords="offset points", fontsize=8)
    axes.set(xscale="log", xlabel="bytes of the packed file", ylabel="test accuracy, %")
    axes.margins(x=0.25, y=0.15)
    axes.grid(alpha=0.3)
    _write(figure, path)


def _write(figure: Figure, path: pathlib.Path) -> None:
    partial = path.with_suffix(".partial.png")
    try:
        with writing(path):
            figure.savefig(partial, dpi=120)
            partial.replace(path)
    finally:
        plt.close(figure)
        partial.unlink(missing_ok=True)


def paper_and_ours(results: list[Result], title: str, path: pathlib.Path) -> None:
    """Draws the paper's numbers beside ours, a panel a metric, with the spread over seeds."""
    metrics = list(dict.fromkeys(result.metric for result in results))
    longest = max(sum(result.metric == metric for result in results) for metric in metrics)
    size = (min(16, 3.2 * len(metrics) + 0.6), 1.6 + 0.45 * longest)
    figure, panels = plt.subplots(1, len(metrics), figsize=size, layout="constrained", squeeze=False)
    for panel, metric in zip(panels[0], metrics, strict=True):
        chosen = [result for result in results if result.metric == metric]
        places = range(len(chosen))
        spread = [0.0 if math.isnan(result.std) else result.std for result in chosen]
        ours = [result.mean for result in chosen]
        panel.barh([p - 0.2 for p in places], ours, 0.4, xerr=spread, color="tab:blue", label="ours")
        paper = [(p + 0.2, result.paper) for p, result in enumerate(chosen) if result.paper is not None]
        if paper:
            panel.barh(*zip(*paper, strict=True), 0.4, color="lightgray", label="paper")
        panel.set_yticks(places, [result.row for result in chosen])
        panel.invert_yaxis()
        panel.set_title(metric, fontsize=10)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    figure.suptitle(title, fontsize=9, wrap=True)
    _write(figure, path)


def curves(results: list[Result], title: str, path: pathlib.Path) -> None:
    """Draws a line a metric over the numbers that rows begin with, from the largest on, with the spread over seeds."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for metric in dict.fromkeys(result.metric for result in results):
        chosen = [result for result in results if result.metric == metric]
        spread = [0.0 if math.isnan(result.std) else result.std for result in chosen]
        places, ours = [number(result.row) for result in chosen], [result.mean for result in chosen]
        axes.errorbar(places, ours, spread, marker="o", capsize=3, label=metric)
    axes.set(xscale="log", xlabel=results[0].row.lstrip("0123456789.,") or None)
    axes.set_xticks(places := sorted({number(result.row) for result in results}), list(map("{:g}".format, places)))
    axes.tick_params(axis="x", labelsize=8, rotation=45)
    axes.minorticks_off()
    axes.invert_xaxis()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.suptitle(title, fontsize=9, wrap=True)
    _write(figure, path)


def number(row: str) -> float:
    """Returns the number that a row begins with; raises ValueError for a row without one."""
    found = re.match(r"[0-9.]+", row)
    if found is None:
        raise ValueError(f"row {row!r} does not begin with a number, so it has no place on a curve")
    return float(found.group())


def bands(spreads: Sequence[Spread], key: str, label: str, path: pathlib.Path) -> None:
    """Draws means over the values of one axis with their confidence band, a line for each setting of the others."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    lines: dict[str, list[Spread]] = {}
    for spread in spreads:
        others = ", ".join(f"{name} {_short(value)}" for name, value in spread.values.items() if name != key)
        lines.setdefault(others, []).append(spread)
    for name, line in lines.items():
        line = sorted(line, key=lambda spread: spread.values[key])
        places, means = [spread.values[key] for spread in line], [spread.mean for spread in line]
        (drawn,) = axes.plot(places, means, marker="o", markersize=4, label=name)
        half = [0.0 if math.isnan(spread.half) else spread.half for spread in line]
        low, high = ([m + sign * h for m, h in zip(means, half, strict=True)] for sign in (-1, 1))
        axes.fill_between(places, low, high, alpha=0.2, color=drawn.get_color(), linewidth=0)
    axes.set(xlabel=key, ylabel=label)
    axes.grid(alpha=0.3)
    if any(lines):
        figure.legend(loc="outside right center", fontsize=7)
    _write(figure, path)


def front(
    places: Sequence[tuple[float, float]], best: Sequence[bool], across: str, up: str, path: pathlib.Path
) -> None:
    """Draws points by a cost and an error, joined by steps where they are the `best`."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.scatter(*zip(*places, strict=True), s=18, color="lightgray")
    chosen = sorted(place for place, on in zip(places, best, strict=True) if on)
    axes.step(*zip(*chosen, strict=True), where="post", marker="o", markersize=4, color="tab:blue")
    axes.set(xscale="log", xlabel=across, ylabel=up)
    axes.grid(alpha=0.3)
    _write(figure, path)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
