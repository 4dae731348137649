"""Activations that a stage rounds, in ranges that are trained with its parameters."""

import jax
import jax.numpy as jnp
from flax import linen as nn

import jaxcompress as jc
from experiments import config
from experiments.variables import RANGES, variables, without_ranges
from jaxcompress.paths import Params


def with_ranges(module: nn.Module, activations: config.Activations, params: Params, images: jax.Array) -> Params:
    """Adds to `params`, unless they are there, the first ranges of activations, from the values on float32 `images`."""
    if RANGES in params:
        return params
    graph, weights = _graph(module, params, images)
    return params | {
        RANGES: jc.quantize.train_ranges(graph, weights, images, quantizer_of(activations), activations.pattern)
    }


def quantizer_of(spec: config.Activations) -> jc.quantize.quantizers.Quantizer:
    """Builds the quantizer of activations."""
    quantizers = jc.quantize.quantizers
    methods = {
        "lsq": quantizers.lsq,
        "lsq-plus": quantizers.lsq_plus,
        "pact": quantizers.pact,
        "dorefa": quantizers.dorefa,
    }
    return methods[spec.method](spec.bits)


def rounded(module: nn.Module, activations: config.Activations, params: Params, images: jax.Array) -> jax.Array:
    """Runs a model with its activations rounded in the ranges that `params` hold."""
    graph, weights = _graph(module, params, images)
    return jc.quantize.with_ranges(graph, weights, params[RANGES], quantizer_of(activations))(images)


def _graph(module: nn.Module, params: Params, images: jax.Array) -> tuple[jc.Graph, Params]:
    example = jax.ShapeDtypeStruct((1, *images.shape[1:]), jnp.float32)
    return jc.read(lambda params, x: module.apply(variables(params), x), without_ranges(params), example)
