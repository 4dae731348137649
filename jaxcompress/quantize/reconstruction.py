"""Rounding the kernels of each block of a trained graph jointly (Li et al. 2021, BRECQ, arXiv:2102.05426)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxcompress.arrays import dense
from jaxcompress.interpreters.graph import INPUT, Graph, operate
from jaxcompress.interpreters.integers import Grid
from jaxcompress.interpreters.patches import patches
from jaxcompress.numerics.adaround import adaround
from jaxcompress.paths import Params
from jaxcompress.quantize.activations import check_observed, fake_quantized_values
from jaxcompress.quantize.blocks import Block, blocks
from jaxcompress.quantize.kernels import bits_by_layer, check_granularity, finite_kernel, fitting_scale, integer_leaf
from jaxcompress.quantize.kernels import layers as layers_of
from jaxcompress.quantize.objectives import Loss, check_loss
from jaxcompress.quantize.weights import Granularity


def reconstruct(
    graph: Graph,
    weights: Params,
    grids: Mapping[str, Grid],
    batches: Sequence[Array],
    *,
    key: Array,
    bits: int | Mapping[str, int] = 8,
    granularity: Granularity = "channel",
    layers: int = 1,
    loss: Loss | None = None,
    labels: Sequence[Array] | None = None,
    steps: int = 2000,
    batch: int = 32,
    learning_rate: float = 1e-2,
    regularization: float = 0.01,
) -> Params:
    """Rounds the kernels of a graph block by block and returns the weights, kernels `Quantized`, as `post_training`.

    Each weight goes up or down, which is learned by AdaRound (Nagel et al. 2020, arXiv:2004.10568; `numerics.adaround`
    has its hyper-parameters) for all kernels of a block at once, so that the block's output stays near that of the
    float network (Li et al. 2021, arXiv:2102.05426, section 3.2). The block is given what the rounded blocks before it
    give; its activations are on their `grids`, its output is not. Blocks are those of `quantize.blocks`: residual
    blocks, and single layers or so many as `layers` says where nothing branches. `bits` and `granularity` are those of
    `post_training`. Steps run in one compiled loop, on examples drawn with `key`.

    With a `loss`, ``loss(outputs, labels)`` for each example, and `labels` for each of `batches`, squared errors of the
    block's output are weighted by the diagonal of the Fisher information as `fisher` has it (section 3.3). The paper
    takes the true labels; drawn from the network's own predictions they give the Fisher information proper.

    Departures: a block ends after its fused activation; the quantizers of activations are calibrated, not learned; the
    defaults are a tenth of the authors' 20,000 steps at ten times their rate.

    Raises ValueError for what `post_training` and `adaround` refuse, a tensor without a grid, no batches, and a loss
    and labels that do not go with them.
    """
    by_layer = bits_by_layer(layers_of(graph, weights), bits)
    check_granularity(granularity)
    check_observed(graph, grids)
    check_loss(graph, weights, batches, loss, labels)
    options: dict[str, Any] = {"steps": steps, "batch": batch, "learning_rate": learning_rate}
    options["regularization"] = regularization
    rounded, parts = dict(weights), blocks(graph, weights, layers)
    given, plain = list(batches), list(batches)  # the input of the block at hand, rounded and in floats
    for index, block in enumerate(parts):
        plain = [jax.jit(block.graph)(weights, x) for x in plain]  # its output from here on
        if block.layers:
            options["key"] = jax.random.fold_in(key, index)
            if loss is not None and labels is not None:
                options["importance"] = fisher(parts[index + 1 :], weights, plain, loss, labels)
            rounded |= _rounded(block, weights, grids, given, plain, by_layer, granularity, options)
        advance = jax.jit(lambda weights, x, block=block: _values(block, weights, grids, x)[block.graph.output])
        given = [advance(rounded, x) for x in given]
    return rounded


def block_of_kernels(
    block: Block, weights: Params, grids: Mapping[str, Grid]
) -> Callable[[dict[str, Array], Array], Array]:
    """Returns ``apply(kernels, x)``, the output of a block by the kernels of its layers, not rounded to its grid.

    All that leads to it is on its grid, `x` included.
    """
    *_, last = block.graph.nodes

    def apply(kernels: dict[str, Array], x: Array) -> Array:
        layers = {name: {"kernel": kernel, "bias": dense(weights[name]["bias"])} for name, kernel in kernels.items()}
        values = _values(block, layers, grids, x)
        return operate(last, layers.get(last.name, {}), [values[name] for name in last.inputs])

    return apply


def fisher(
    after: Sequence[Block], weights: Params, outputs: Sequence[Array], loss: Loss, labels: Sequence[Array]
) -> Float[Array, "examples ..."]:
    """Returns the squared gradient of the loss of each example with respect to the output of a block.

    `outputs` are batches of it, `after` the blocks that follow. Divided by its mean, so that the regulariser of the
    rounding weighs as without it; all ones where every gradient is zero. Raises ValueError if one is not finite.
    """

    def total(z: Array, labels: Array) -> Array:
        for block in after:
            z = block.graph(weights, z)
        return jnp.sum(loss(z, labels))

    gradient = jax.jit(jax.grad(total))
    gradients = jnp.concatenate([gradient(z, y) for z, y in zip(outputs, labels, strict=True)]).astype(jnp.float32)
    largest = jnp.max(jnp.abs(gradients))
    if not bool(jnp.isfinite(largest)):
        raise ValueError("the gradient of the loss is not finite on the batches and labels given")
    squares = jnp.square(gradients / jnp.where(largest > 0, largest, 1.0))  # which would underflow otherwise
    return squares / jnp.mean(squares) if largest > 0 else jnp.ones_like(squares)


def _rounded(
    block: Block,
    weights: Params,
    grids: Mapping[str, Grid],
    inputs: Sequence[Array],
    targets: Sequence[Array],
    bits: Mapping[str, int],
    granularity: Granularity,
    options: dict[str, Any],
) -> Params:
    """Returns the layers of a block with their kernels rounded jointly."""
    kernels = {name: finite_kernel(weights, name) for name in block.layers}
    scales = {}
    for name, kernel in kernels.items():
        (source,) = block.graph.node(name).inputs
        given = grids[block.source if source == INPUT else source]
        scales[name] = fitting_scale(kernel, weights[name]["bias"], given, bits[name], granularity)
    zeros = jax.tree.map(jnp.zeros_like, scales)
    apply = block_of_kernels(block, weights, grids)
    if jax.default_backend() == "cpu":  # XLA's convolutions are slow inside a loop there
        apply = patches(apply)
    examples = (jnp.concatenate(inputs), jnp.concatenate(targets))
    codes = adaround(kernels, apply, *examples, scales, zeros, {n: bits[n] for n in kernels}, True, **options)
    return {
        name: {
            "kernel": integer_leaf(kernel, codes[name], scales[name], bits[name]),
            "bias": dense(weights[name]["bias"]),
        }
        for name, kernel in kernels.items()
    }


def _values(block: Block, weights: Params, grids: Mapping[str, Grid], x: Array) -> dict[str, Array]:
    """Returns every tensor of a block by name, on its grid."""
    return fake_quantized_values(block.graph, weights, {**grids, INPUT: grids[block.source]}, x)
