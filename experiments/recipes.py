"""From the techniques of a stage to the transforms that carry them out."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

import jaxcompress as jc
from experiments import config
from experiments.build import seed_key
from jaxcompress.arrays import Binary, Dithered
from jaxcompress.paths import Params
from jaxcompress.transform import identity_update, rewrite_owned


class Setting(NamedTuple):
    """Holds what transforms are made of besides their technique; epochs become steps by `epoch_steps`.

    ``score(technique, params)`` ranks connections, when they are pruned by `init`; ``loss(params, examples)`` is what
    RigL grows by; ``within(technique, params)`` compresses within a budget; `strength` is that of the LC algorithm,
    which learned ranks are weighed with.
    """

    epoch_steps: int = 1
    seed: int = 0
    score: Callable[[config.Connections, Params], jc.prune.scores.Scores] | None = None
    loss: Callable[[Params, Any], Array] | None = None
    within: Callable[[config.Budget | config.Joint, Params], Params] | None = None
    strength: float = 0.0

    def steps(self, epochs: float) -> Any:
        """Returns the number of steps of some epochs, traced if these are."""
        steps = epochs * self.epoch_steps
        return jnp.round(steps).astype(jnp.int32) if isinstance(steps, Tracer) else round(steps)


def recipe(stage: config.Stage, setting: Setting) -> jc.Transform:
    """Builds the transforms of a stage."""
    return jc.chain(*(_transform(technique, setting) for technique in stage.recipe))


def moves_masks(stage: config.Stage) -> bool:
    """Tells whether weights come back into use in a stage, for which the optimiser's state of others must be zero."""
    return any(isinstance(technique, config.Dynamic | config.ACDC) for technique in stage.recipe)


def handed_on(stage: config.Stage) -> Callable[[Params], Params]:
    """Returns what a stage makes of its parameters to validate and hand on: noise of training is left out.

    What was rounded by drawn numbers is rounded to nearest; of signs it may be that the weights behind them are handed
    on.
    """
    drawn = [t for t in stage.recipe if isinstance(t, config.Binary | config.Weights)]
    signs = {name: isinstance(t, config.Weights) or t.test == "signs" for t in drawn for name in _names(t)}

    def without(params: Params) -> Params:
        for owner, kept in signs.items():
            params = rewrite_owned(params, owner, _without_noise if kept else lambda leaf: leaf.weight)
        return params

    return without


def _names(technique: config.Technique) -> tuple[str, ...]:
    return _transform(technique).names


def _without_noise(leaf: Any) -> Any:
    match leaf:
        case Binary():
            return replace(leaf, threshold=jnp.zeros_like(leaf.threshold))
        case Dithered():
            return replace(leaf, noise=jnp.zeros_like(leaf.noise))
        case _:
            return leaf


def _transform(spec: config.Technique, setting: Setting = Setting()) -> jc.Transform:  # noqa: B008 (immutable)
    match spec:
        case config.Magnitude():
            sparsity = spec.sparsity if spec.ramp is None else ramp(spec.ramp, spec.sparsity, setting)
            return jc.prune.magnitude(spec.pattern, sparsity, scope=spec.scope, every=spec.every)
        case config.Connections():
            return _connections(spec, setting)
        case config.Dynamic():
            return _dynamic(spec, setting)
        case config.NM() if spec.method == "sr-ste":
            return jc.prune.sr_ste(spec.pattern, spec.n, spec.m, decay=spec.decay)
        case config.NM():
            return jc.prune.n_m(spec.pattern, spec.n, spec.m)
        case config.Movement():
            return jc.prune.movement(spec.pattern, ramp(spec.ramp, spec.sparsity, setting), every=spec.every)
        case config.ACDC():
            begin, end, compressed, whole = _phases(spec, setting)
            lengths: dict[str, Any] = {"compressed_steps": compressed, "dense_steps": whole}
            return jc.prune.ac_dc(spec.pattern, spec.sparsity, begin=begin, end=end, **lengths)
        case config.Threshold():
            return jc.prune.threshold(spec.pattern, spec.quality)
        case config.Weights():
            bits = spec.bits if spec.ramp is None else ramp(spec.ramp, spec.bits, setting)
            options = {name: getattr(spec, name) for name in ("granularity", "group", "symmetric", "stochastic")}
            return jc.quantize.weights(spec.pattern, bits, **options)
        case config.Float8():
            return jc.quantize.float8(spec.pattern, spec.format, granularity=spec.granularity)
        case config.LSQ():
            return jc.quantize.lsq(spec.pattern, spec.bits, granularity=spec.granularity, symmetric=True)
        case config.DoReFa():
            return jc.quantize.dorefa(spec.pattern, spec.bits)
        case config.Binary():
            return jc.quantize.binary(spec.pattern, spec.method, stochastic=spec.stochastic)
        case config.Ternary():
            return jc.quantize.ternary(spec.pattern, spec.method, threshold=spec.threshold)
        case config.Codebook():
            key = seed_key(setting.seed, f"codebook {spec.pattern}") if spec.initial == "random" else None
            return jc.quantize.codebook(spec.pattern, spec.bits, scope=spec.scope, initial=spec.initial, key=key)
        case config.SVD():
            rank = _rank(spec) if spec.alpha is None else jc.factorize.penalized(spec.alpha, setting.strength)
            return jc.factorize.svd(spec.pattern, rank, energy=spec.energy, split=spec.split)
        case config.Tucker2():
            return jc.factorize.tucker2(spec.pattern, _rank(spec), energy=spec.energy)
        case config.CP():
            return jc.factorize.cp(spec.pattern, spec.rank, key=seed_key(setting.seed, f"cp {spec.pattern}"))
        case config.TensorTrain():
            return jc.factorize.tensor_train(spec.pattern, spec.inputs, spec.outputs, spec.rank)
        case config.Kronecker():
            return jc.factorize.kronecker(spec.pattern, spec.left, spec.rank)
        case config.Budget() | config.Joint():
            return _budget(spec, setting)
        case config.Additive():
            return jc.additive(spec.pattern, *(_transform(part, setting) for part in (spec.first, spec.second)))


def _connections(spec: config.Connections, setting: Setting) -> jc.Transform:
    """Returns the transform that ranks connections by the parameters that it is given, once."""

    def by(scores: jc.prune.scores.Scores | None) -> jc.Transform:
        # Named after the sparsity too, so that a later stage prunes on.
        name = f"connections[{spec.pattern}, {spec.sparsity:g}]"
        return jc.prune.by_score(spec.pattern, spec.sparsity, scores, allocation=spec.allocation, name=name)

    def init(params: Params) -> Params:
        if setting.score is None:
            raise ValueError(f"connections of {spec.pattern!r} need a score")
        return by(setting.score(spec, params)).init(params)

    return jc.Transform(by(None).names, init, identity_update)


def _rank(spec: config.SVD | config.Tucker2) -> int | jc.factorize.Rule | None:
    return jc.factorize.vbmf() if spec.vbmf else spec.rank


def _budget(spec: config.Budget | config.Joint, setting: Setting) -> jc.Transform:
    def init(params: Params) -> Params:
        if setting.within is None:
            raise ValueError(f"the budget for {spec.pattern!r} needs a model, whose cost is counted")
        return setting.within(spec, params)

    return jc.Transform((f"budget[{spec.pattern}]",), init, identity_update)


def _dynamic(spec: config.Dynamic, setting: Setting) -> jc.Transform:
    key = seed_key(setting.seed, f"{spec.method} {spec.pattern}")
    options: dict[str, Any] = {"key": key, "end": setting.steps(spec.end)}
    options |= {name: getattr(spec, name) for name in ("allocation", "fraction", "every")}
    if spec.method == "set":
        return jc.prune.sparse_evolution(spec.pattern, spec.sparsity, **options)
    if setting.loss is None:
        raise ValueError(f"rigl of {spec.pattern!r} needs a loss to grow by")
    return jc.prune.rigl(spec.pattern, spec.sparsity, setting.loss, **options)


def ramp(spec: config.Ramp, final: float, setting: Setting) -> jc.schedules.Schedule:
    """Returns the schedule of a ramp up, or down, to a `final` value."""
    shape = {"linear": jc.schedules.linear, "cubic": jc.schedules.cubic}[spec.shape]
    begin, end = map(setting.steps, (spec.begin, spec.end))
    return shape(spec.initial, final, begin=begin, end=end)


def phases(spec: config.ACDC, setting: Setting) -> jc.schedules.Schedule:
    """Returns the sparsity of AC/DC, phase after phase."""
    begin, end, compressed, whole = _phases(spec, setting)
    return jc.schedules.alternating(spec.sparsity, begin=begin, end=end, high_steps=compressed, low_steps=whole)


def _phases(spec: config.ACDC, setting: Setting) -> list[Any]:
    """Returns begin, end and the lengths of a compressed and of a dense phase, in steps."""
    return [setting.steps(epochs) for epochs in (spec.begin, spec.end, spec.compressed, spec.dense)]
