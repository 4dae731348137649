"""Where the channels of a group are read: the products and convolutions with a kernel that has them as inputs."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jax import Array
from jax.extend.core import primitives as prim

from jaxcompress.arrays import densify
from jaxcompress.interpreters.channels import Group
from jaxcompress.interpreters.uses import Use, uses
from jaxcompress.paths import Params, flatten


class Reading(NamedTuple):
    """Holds an activation in which each channel is the entries `rows[c]` along `axis`, and the use that reads it."""

    activation: Array
    axis: int
    rows: np.ndarray
    use: Use


def plain_uses(apply: Callable[..., Any], params: Params, *args: Any) -> dict[str, list[Use]]:
    """Lists the uses of every weight that the model takes as it stands, nowhere transposed, reshaped or converted."""
    params = densify(params)
    leaves = flatten(params)
    found = uses(apply, lambda use: use)(params, *args)
    return {path: of for path, of in found.items() if all(use.weight is leaves[path] for use in of)}


def readings(
    apply: Callable[..., Any], params: Params, groups: Mapping[str | int, Group], *args: Any
) -> dict[str | int, list[Reading]]:
    """Finds the activations of every group, as the layers that read them are given them; traceable.

    Each reader gives one, behind the activation function and the pooling. Groups that no product or convolution with a
    plain kernel reads have none: those that attention only multiplies with one another, for instance.
    """
    found = plain_uses(apply, params, *args)
    return {
        key: [
            Reading(use.input, place[0], place[1], use)
            for member in group.members
            for use in found.get(member.path, ())
            if (place := _place(use, member.axis, member.indices)) is not None
        ]
        for key, group in groups.items()
    }


def _place(use: Use, axis: int, indices: np.ndarray) -> tuple[int, np.ndarray] | None:
    """Returns the axis of a use's input, and the entries along it, that meet `indices` along an axis of the weight."""
    numbers = use.params["dimension_numbers"]
    if use.primitive is prim.dot_general_p:
        (left, right), (left_batch, right_batch) = numbers
        met = dict(zip((*right, *right_batch), (*left, *left_batch), strict=True))
        return (met[axis], indices) if axis in met else None
    if axis != numbers.rhs_spec[1]:
        return None
    groups = use.params["feature_group_count"]
    width = use.weight.shape[axis]  # every group of a grouped convolution reads the same channels of its own
    return numbers.lhs_spec[1], np.concatenate([indices + width * g for g in range(groups)], axis=1)
