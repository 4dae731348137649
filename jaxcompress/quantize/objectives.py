"""What a quantized network is held to: a loss on labels, or the outputs of the float network."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import Array

from jaxcompress.interpreters.graph import Graph
from jaxcompress.paths import Params

Loss = Callable[[Array, Array], Array]  # (outputs, labels) -> the loss of each example


def check_loss(
    graph: Graph, weights: Params, batches: Sequence[Array], loss: Loss | None, labels: Sequence[Array] | None
) -> None:
    """Raises ValueError unless `loss`, when there is one, gives a number for each example of `batches`."""
    if not len(batches):
        raise ValueError("there are no batches; at least one is needed")
    if (loss is None) != (labels is None):
        raise ValueError("a loss needs labels and labels need a loss")
    if loss is None or labels is None:
        return
    examples, labelled = ([len(batch) for batch in all_of] for all_of in (batches, labels))
    if examples != labelled:
        raise ValueError(f"batches of {examples} examples have {labelled} labels; there must be as many")
    for x, y in zip(batches, labels, strict=True):
        shape = jax.eval_shape(lambda x, y: loss(graph(weights, x), y), x, y).shape
        if shape != (len(x),):
            raise ValueError(f"the loss of {len(x)} examples has shape {shape}, not one number for each")


def squared_error(outputs: Array, targets: Array) -> Array:
    """Returns the squared error of each example, averaged over its outputs."""
    return jnp.mean(jnp.square(outputs - targets), axis=tuple(range(1, outputs.ndim)))
