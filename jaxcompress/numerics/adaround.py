"""AdaRound: learns whether each weight is rounded up or down (Nagel et al. 2020, arXiv:2004.10568)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.core import Tracer
from jaxtyping import Float, Int8

from jaxcompress.numerics import affine

Tree = Any  # one array, or a tree of them: weights that are rounded jointly
Layer = Callable[[Tree, Array], Array]  # (weight, inputs) -> outputs

# The ends that the sigmoid is stretched to before it is cut to [0, 1] (eq. 23), so that both are reached.
_GAMMA, _ZETA = -0.1, 1.1


def adaround(
    weight: Tree,
    apply: Layer,
    inputs: Float[Array, "examples ..."],
    targets: Float[Array, "examples ..."],
    scale: Tree,
    zero_point: Tree,
    bits: Tree,
    symmetric: bool,
    *,
    importance: Float[Array, "examples ..."] | None = None,
    key: Array,
    steps: int = 10_000,
    batch: int = 32,
    learning_rate: float = 1e-3,
    regularization: float = 0.01,
    beta: tuple[float, float] = (20.0, 2.0),
    warm_start: float = 0.2,
) -> Tree:
    """Returns int8 codes of `weight`, each rounded up or down so that the layer's outputs stay near `targets`.

    ``apply(weight, inputs)`` is the layer, of any kind and with its activation function if that is to count (eq. 25);
    the squares of its error are summed over the last axis, the channels, and averaged over all others. `inputs` may
    come from the quantized layers before it while `targets` are those of the original model, one entry of the first
    axis per example. `scale` and `zero_point`, those of `affine`, are scalars or have the axes of `weight`. Several
    weights of which ``apply`` makes one output are rounded jointly (Li et al. 2021, arXiv:2102.05426) when `weight`,
    `scale`, `zero_point` and `bits` are trees of one structure. `importance`, of the shape of `targets`, multiplies the
    squares of the error.

    Adam at `learning_rate` minimises `objective` over `steps` batches of `batch` distinct examples, drawn with `key`.
    The regulariser is left out for the fraction `warm_start` of the steps; then `beta` falls from its first to its
    second value along half a cosine. Steps, batch and Adam's settings are the paper's; the other defaults, which it
    leaves open, and the cosine are those of the authors' release (AIMET).

    Departures: a weight that lies on an integer of the grid, a pruned one above all, stays there, since its floor is
    its ceiling; what is not decided after the last step is rounded to the nearer of the two.

    `apply` should be one function for all calls of equal shapes, since a new one is compiled anew. Raises ValueError
    for shapes that do not match, `bits` outside 2..8, hyper-parameters out of range, arrays that are not finite and
    scales that are not positive. Values can only be looked at outside of jit and vmap.
    """
    grids = _by_weight(weight, scale, zero_point, bits)
    for name, grid in grids.items():
        _check_grid(name, *grid)
    _check_examples(weight, apply, inputs, targets, importance)
    if steps < 1 or batch < 1:
        raise ValueError(f"steps {steps} and batch {batch} must both be at least 1")
    if not 0 <= warm_start <= 1 or min(beta) <= 1:
        raise ValueError(f"warm_start {warm_start} must lie in [0, 1] and beta {beta} above 1")
    logits = _optimise(
        *(weight, apply, inputs, targets, importance, scale, zero_point, bits, symmetric, key),
        *(steps, min(batch, len(inputs)), learning_rate, regularization, beta, warm_start),
    )

    def decided(logits: Array, weight: Array, scale: Array, zero_point: Array, bits: Array | int) -> Int8[Array, "..."]:
        chosen = (rectified_sigmoid(logits) >= 0.5).astype(jnp.float32)
        return _codes(chosen, weight, scale, zero_point, bits, symmetric).astype(jnp.int8)

    return jax.tree.map(decided, logits, weight, scale, zero_point, bits)


def rectified_sigmoid(logits: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns how far each weight is rounded up, in [0, 1] with both ends reached (eq. 23)."""
    return jnp.clip(jax.nn.sigmoid(logits) * (_ZETA - _GAMMA) + _GAMMA, 0.0, 1.0)


def initial_logits(weight: Float[Array, "..."], scale: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns the logits for which `soft_round` gives `weight` itself, as far as the codes reach."""
    position = weight.astype(jnp.float32) / scale
    fraction = (position - jnp.floor(position) - _GAMMA) / (_ZETA - _GAMMA)
    return jnp.log(fraction) - jnp.log1p(-fraction)


def soft_round(
    logits: Float[Array, "..."],
    weight: Float[Array, "..."],
    scale: Array,
    zero_point: Array,
    bits: Array | int,
    symmetric: bool,
) -> Float[Array, "..."]:
    """Returns `weight` rounded up by the fraction that `logits` say, and cut to the range of the codes (eq. 22)."""
    codes = _codes(rectified_sigmoid(logits), weight, scale, zero_point, bits, symmetric)
    return affine.dequantize(codes, scale, zero_point.astype(jnp.float32)).astype(weight.dtype)


def objective(
    logits: Tree,
    weight: Tree,
    apply: Layer,
    inputs: Float[Array, "examples ..."],
    targets: Float[Array, "examples ..."],
    scale: Tree,
    zero_point: Tree,
    bits: Tree,
    symmetric: bool,
    beta: Array | float,
    regularization: Array | float,
    importance: Float[Array, "examples ..."] | None = None,
) -> Float[Array, ""]:
    """Returns the squared error of the layer's outputs plus the regulariser of the rounding (eqs. 24 and 25).

    The regulariser, ``sum(1 - abs(2 * h - 1)**beta)`` times `regularization`, is zero where every h is 0 or 1.
    """
    soft = jax.tree.map(partial(soft_round, symmetric=symmetric), logits, weight, scale, zero_point, bits)
    error = jnp.square(apply(soft, inputs).astype(jnp.float32) - targets.astype(jnp.float32))
    if importance is not None:
        error *= importance
    undecided = [jnp.sum(1 - jnp.abs(2 * rectified_sigmoid(leaf) - 1) ** beta) for leaf in jax.tree.leaves(logits)]
    return jnp.mean(jnp.sum(error, axis=-1)) + regularization * sum(undecided)


def annealed(
    time: Array | float, beta: tuple[Array | float, Array | float], warm_start: Array | float
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns beta and whether the regulariser counts (0 or 1) after the fraction `time` of all steps.

    Beta falls along half a cosine from its first value, at `warm_start`, to its second, at 1.
    """
    progress = jnp.maximum(time - warm_start, 0.0) / jnp.maximum(1.0 - warm_start, 1e-6)
    falling = beta[1] + (beta[0] - beta[1]) * (1 + jnp.cos(jnp.pi * progress)) / 2
    return falling, jnp.asarray(time >= warm_start, jnp.float32)


@partial(jax.jit, static_argnames=("apply", "symmetric", "steps", "batch"))
def _optimise(
    weight: Tree,
    apply: Layer,
    inputs: Array,
    targets: Array,
    importance: Array | None,
    scale: Tree,
    zero_point: Tree,
    bits: Tree,
    symmetric: bool,
    key: Array,
    steps: int,
    batch: int,
    learning_rate: Array | float,
    regularization: Array | float,
    beta: tuple[Array | float, Array | float],
    warm_start: Array | float,
) -> Tree:
    optimiser = optax.adam(learning_rate)

    def step(state: tuple[Tree, optax.OptState], i: Array) -> tuple[tuple[Tree, optax.OptState], None]:
        logits, moments = state
        drawn = jax.random.choice(jax.random.fold_in(key, i), len(inputs), (batch,), replace=False)
        x, y, weighs = jax.tree.map(lambda values: values[drawn], (inputs, targets, importance))
        sharpness, strength = annealed(i / steps, beta, warm_start)
        gradient = jax.grad(objective)(
            *(logits, weight, apply, x, y, scale, zero_point, bits, symmetric),
            *(sharpness, regularization * strength, weighs),
        )
        with jax.numpy_dtype_promotion("standard"):  # Adam raises a float to its int32 count of steps
            updates, moments = optimiser.update(gradient, moments)
        return (optax.apply_updates(logits, updates), moments), None

    logits = jax.tree.map(initial_logits, weight, scale)
    (logits, _), _ = lax.scan(step, (logits, optimiser.init(logits)), jnp.arange(steps))
    return logits


def _codes(
    up: Array, weight: Array, scale: Array, zero_point: Array, bits: Array | int, symmetric: bool
) -> Float[Array, "..."]:
    smallest, largest = affine.code_range(bits, symmetric)
    position = weight.astype(jnp.float32) / scale
    low, high = jnp.floor(position), jnp.ceil(position)
    return jnp.clip(low + up * (high - low) + zero_point.astype(jnp.float32), smallest, largest)


def _by_weight(weight: Tree, *others: Tree) -> dict[str, tuple[Any, ...]]:
    """Lists each weight with its scale, zero point and bits, by the name that errors give it."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(weight)
    if not leaves or any(jax.tree.structure(tree) != structure for tree in others):
        raise ValueError(f"scale, zero_point and bits are not trees of the structure of weight, {structure}")
    names = ["/".join(filter(None, ["weight", jax.tree_util.keystr(k, simple=True, separator="/")])) for k, _ in leaves]
    values = zip(*(jax.tree.leaves(tree) for tree in (weight, *others)), strict=True)
    return dict(zip(names, values, strict=True))


def _check_grid(name: str, weight: Array, scale: Array, zero_point: Array, bits: Array | int) -> None:
    if weight.size == 0 or not jnp.issubdtype(weight.dtype, jnp.floating):
        raise ValueError(f"{name} of shape {weight.shape} and dtype {weight.dtype} is empty or not floating-point")
    for parameter, value in (("scale", scale), ("zero_point", zero_point)):
        fits = all(n in (1, m) for n, m in zip(value.shape, weight.shape, strict=False))
        if value.ndim and not (value.ndim == weight.ndim and fits):
            raise ValueError(
                f"{parameter} of shape {value.shape} is neither () nor, in every axis, 1 or that of {name}, "
                f"{weight.shape}"
            )
    if not isinstance(bits, Tracer) and not (int(bits) == float(bits) and 2 <= int(bits) <= 8):
        raise ValueError(f"bits {bits!r} of {name} is not an integer from 2 to 8")
    _check_finite({name: weight, f"scale of {name}": scale})
    if _refuted(jnp.all(scale > 0)):
        raise ValueError(f"scale of {name} holds {jnp.min(scale)}; all its entries must be positive")


def _check_examples(weight: Tree, apply: Layer, inputs: Array, targets: Array, importance: Array | None) -> None:
    if inputs.ndim == 0 or len(inputs) == 0:
        raise ValueError(f"inputs of shape {inputs.shape} hold no example; the first axis counts them")
    outputs = jax.eval_shape(apply, weight, inputs)
    given = {"targets": targets} | ({} if importance is None else {"importance": importance})
    for name, value in given.items():
        if value.shape != outputs.shape:
            raise ValueError(f"{name} of shape {value.shape} are not of shape {outputs.shape}, which the layer returns")
    _check_finite({"inputs": inputs} | given)
    if importance is not None and _refuted(jnp.all(importance >= 0)):
        raise ValueError(f"importance holds {jnp.min(importance)}; none of its entries may be negative")


def _check_finite(arrays: dict[str, Array]) -> None:
    for name, value in arrays.items():
        if _refuted(jnp.all(jnp.isfinite(value))):
            raise ValueError(f"{name} of shape {value.shape} holds NaN or infinity; all its entries must be finite")


def _refuted(condition: Array) -> bool:
    return not isinstance(condition, Tracer) and not condition
