"""How sparse and how finely rounded parameters have become, whatever was asked of them."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxcompress.arrays import Clustered, Factored, PackedFloat8, Quantized, Summed, is_compressed, pack
from jaxcompress.paths import Params, flatten


class Reached(NamedTuple):
    """Holds what parameters have reached: `sparsity`, the fraction of weights under masks that is removed, and `bits`.

    The latter are the mean over the weights that are rounded to few values. Each is None where there are no such
    weights. `leaves` holds both by path, those of factors by the paths of these.
    """

    sparsity: float | None
    bits: float | None
    leaves: dict[str, dict[str, float]]


def reached(params: Params) -> Reached:
    """Measures parameters in training or in storage form."""
    leaves: dict[str, dict[str, float]] = {}
    sums = {"sparsity": [0.0, 0], "bits": [0.0, 0]}
    for path, leaf in flatten(params).items():
        for place, name, value, size in _of(path, leaf):
            leaves.setdefault(place, {})[name] = value
            sums[name][0] += value * size
            sums[name][1] += size
    means = {name: total / size if size else None for name, (total, size) in sums.items()}
    return Reached(means["sparsity"], means["bits"], leaves)


def _of(path: str, leaf: Any) -> Iterator[tuple[str, str, float, int]]:
    """Yields path, name, value and number of weights of what a leaf has reached."""
    mask = None
    for layer in _layers(leaf):
        own = getattr(layer, "mask", None)
        if own is not None and (mask is None or mask.shape == own.shape):
            mask = np.asarray(own) if mask is None else mask & np.asarray(own)
        for name, part in _parts(layer).items():
            yield from _of(f"{path}/{name}", part)
    if mask is not None and mask.size:
        yield path, "sparsity", 1 - np.count_nonzero(mask) / mask.size, mask.size
    for layer in _layers(pack(leaf)):
        bits = _bits(layer)
        if bits is not None:
            yield path, "bits", float(bits), math.prod(layer.shape)


def _layers(leaf: Any) -> Iterator[Any]:
    """Yields a compressed leaf and those around whose weights it is wrapped."""
    while is_compressed(leaf):
        yield leaf
        leaf = getattr(leaf, "weight", None)


def _parts(leaf: Any) -> dict[str, Any]:
    if isinstance(leaf, Summed):
        return {"first": leaf.first, "second": leaf.second}
    parts: dict[str, Any] = {}
    if isinstance(leaf, Factored):
        leaf.map_arrays(lambda name, part: parts.setdefault(name, part))
    return parts


def _bits(leaf: Any) -> int | None:
    match leaf:
        case Quantized():
            return leaf.bits
        case Clustered():
            return max(1, (leaf.centroids.shape[0] - 1).bit_length())
        case PackedFloat8():
            return 8
        case _:
            return None
