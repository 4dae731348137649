"""Distillation from feature maps in the middle of a teacher.

Features have the channels last. Every loss is one number for each example; where not said otherwise it is a mean over
the features of an example, so that its weight does not hang on their size. Teachers are frozen. A student with other
channels than its teacher's is mapped first, by the layers in `jaxcompress.distill.connectors`.

Losses are computed in float32 where features are of half precision. `where` is false for padding, which is left out of
means and gradients whatever it holds: booleans (batch,) for examples, and for the losses that compare place by place
(`hint`, `vid`, `activation_boundary`, `overhaul`) of any number of the features' first axes, such as (batch, time).
"""

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.stats import norm
from jaxtyping import Float

from jaxcompress.distill.checks import check_maps, check_places, check_positive, check_same_batch, check_same_shape
from jaxcompress.distill.connectors import regress, regressor
from jaxcompress.distill.padding import Where, mean, unpadded, zeroed
from jaxcompress.distill.precision import in_float32
from jaxcompress.numerics.resizing import average_pool_to, common_size
from jaxcompress.numerics.vectors import unit
from jaxcompress.paths import Params

Features = Float[Array, "batch *places channels"]
Maps = Float[Array, "batch height width channels"]
Losses = Float[Array, "batch"]

_REGRESS = "; map the student's by a regressor (jaxcompress.distill.regress)"


@in_float32
def hint(student: Features, teacher: Features, *, where: Where = None) -> Losses:
    """Returns the mean squared difference of features (FitNets; Romero et al. 2015, arXiv:1412.6550, eq. 3).

    The student's come out of a regressor that is trained with it. A departure: the mean over the features, where the
    paper has half of the sum. Raises ValueError for shapes that differ.
    """
    student, teacher = _pair(student, teacher, where)
    return _mean(jnp.square(student - teacher), where)


@in_float32
def attention(student: Maps, teacher: Maps, *, power: int = 2, where: Where = None) -> Losses:
    """Returns the squared difference of attention maps (Zagoruyko & Komodakis 2017, arXiv:1612.03928, eq. 2).

    A map is the mean over the channels of the features' magnitude to the `power`, divided by its length; the larger of
    two is averaged down to the smaller. As in the authors' code, and not in the paper, it is the mean square and not
    the length of the difference. Channels may differ.

    Raises ValueError for features that are no maps or of another batch, and for a power that is not positive.
    """
    _check_maps_of_batch(student, teacher)
    check_positive(power=power)
    student, teacher = common_size(*unpadded(where, student, lax.stop_gradient(teacher)))
    ours, theirs = (_flat_unit(jnp.mean(jnp.abs(x) ** power, axis=-1)) for x in (student, teacher))
    return zeroed(where, _mean(jnp.square(ours - theirs)))


@in_float32
def fsp(student: tuple[Maps, Maps], teacher: tuple[Maps, Maps], *, where: Where = None) -> Losses:
    """Returns the squared difference of the flow through two layers (Yim et al. 2017, CVPR, eq. 1-2).

    Each network gives the features in front of and behind a part of it; their flow is the matrix of products of the
    channels of the two, averaged over the places of the smaller. The loss is the mean over the matrix. Raises
    ValueError for features that are no maps, and for flows of other numbers of channels.
    """
    ours, theirs = _flow(student, where), _flow(lax.stop_gradient(teacher), where)
    check_same_shape(ours, theirs, "flows", "; each pair must have the channels of the other's")
    return zeroed(where, _mean(jnp.square(ours - theirs)))


@in_float32
def nst(student: Maps, teacher: Maps, *, where: Where = None) -> Losses:
    """Returns the distance of the channels' distributions (NST; Huang & Wang 2017, arXiv:1707.01219, eq. 4 and 7).

    That is the squared maximum mean discrepancy under the polynomial kernel ``(x . y)**2``, of channels as vectors over
    the places, divided by their lengths; the larger maps are averaged down to the smaller, and channels may differ in
    number. Raises ValueError for features that are no maps or of another batch.
    """
    _check_maps_of_batch(student, teacher)
    pair = common_size(*unpadded(where, student, lax.stop_gradient(teacher)))
    ours, theirs = (unit(x.reshape(len(x), -1, x.shape[-1]), axis=1) for x in pair)

    def kernel(a: Array, b: Array) -> Losses:
        return _mean(jnp.square(jnp.einsum("bpi,bpj->bij", a, b)))

    return zeroed(where, kernel(theirs, theirs) + kernel(ours, ours) - 2 * kernel(ours, theirs))


def variational(key: Array, inputs: int, outputs: int, *, variance: float = 5.0) -> Params:
    """Draws what `vid` learns: a regressor of three layers from `inputs` to `outputs` channels, and variances.

    `variance` is that of every channel in the beginning, above 1e-5.
    """
    if not variance > _LEAST_VARIANCE:
        raise ValueError(f"variance {variance!r} is not above {_LEAST_VARIANCE}")
    raw = jnp.log(jnp.expm1(variance - _LEAST_VARIANCE))
    return {"mean": regressor(key, inputs, outputs, outputs, outputs), "variance": jnp.full(outputs, raw)}


@in_float32
def vid(params: Params, student: Features, teacher: Features, *, where: Where = None) -> Losses:
    """Returns how unlikely the teacher's features are given the student's (VID; Ahn et al. 2019, arXiv:1904.05835).

    The negative logarithm of a normal distribution, less its constant (eq. 5-6): its mean is a regressor of the
    student's, its variance one number a channel, ``softplus(raw) + 1e-5``; `params` are of `variational`. A departure:
    the mean over the features, not the sum. Raises ValueError for features of other shapes than the teacher's.
    """
    (student,) = unpadded(where, student, places=None)
    expected = regress(params["mean"], student)
    remedy = "; the regressor makes the student's channels alone the teacher's"
    expected, teacher = _pair(expected, teacher, where, remedy)
    variance = jax.nn.softplus(params["variance"]) + _LEAST_VARIANCE
    variance = jnp.broadcast_to(variance, expected.shape)
    return _mean(0.5 * (jnp.square(teacher - expected) / variance + jnp.log(variance)), where)


@in_float32
def activation_boundary(student: Features, teacher: Features, *, margin: float = 1.0, where: Where = None) -> Losses:
    """Returns how far features are from the teacher's side of zero (AB; Heo et al. 2019, arXiv:1811.03233, eq. 6).

    Features are those in front of the activation function, the student's behind a `connector`. Where the teacher's is
    positive the student's is wanted above the `margin`, elsewhere below minus it, and what is missing counts by its
    square. A departure: the mean over the features, not the sum. Raises ValueError for shapes that differ, and for a
    margin that is not positive.
    """
    student, teacher = _pair(student, teacher, where)
    check_positive(margin=margin)
    side = jnp.where(teacher > 0, 1.0, -1.0).astype(student.dtype)
    return _mean(jnp.square(jax.nn.relu(margin - side * student)), where)


@in_float32
def margins(scale: Float[Array, "channels"], bias: Float[Array, "channels"]) -> Float[Array, "channels"]:
    """Returns the expected negative value of channels behind a batch normalization (OFD, arXiv:1904.01866, eq. 5).

    A channel with this `scale` and `bias` is taken to be normally distributed; its margin is the mean of what is below
    zero. Where less than a thousandth is, it is minus three times the scale, as in the authors' code. At scale 0 it is
    the bias, or 0 if that is positive. Raises ValueError unless both are (channels,).
    """
    if scale.shape != bias.shape or scale.ndim != 1:
        raise ValueError(f"scales {scale.shape} and biases {bias.shape} are not one for each channel")
    scale = jnp.abs(scale)
    spread = jnp.where(scale > 0, scale, 1)
    below = norm.cdf(-bias / spread)
    negative = bias - spread * norm.pdf(bias / spread) / jnp.maximum(below, 1e-3)
    negative = jnp.where(below > 1e-3, negative, -3 * spread)
    return jnp.where(scale > 0, negative, jnp.minimum(bias, 0))


@in_float32
def overhaul(student: Maps, teacher: Maps, margin: Float[Array, "channels"], *, where: Where = None) -> Losses:
    """Returns the partial squared difference of features (OFD; Heo et al. 2019, arXiv:1904.01866, eq. 6-7).

    Features are those in front of the activation function, the student's behind a `connector`. The teacher's are cut
    off below at the `margin` of their channel, of `margins`; where they are not positive and the student's is not above
    them nothing is lost. A departure: the mean over the features, not the sum. Raises ValueError for shapes that
    differ, and unless there is one margin a channel.
    """
    student, teacher = _pair(student, teacher, where)
    if margin.shape != teacher.shape[-1:]:
        raise ValueError(f"margins {margin.shape} are not one for each of the {teacher.shape[-1]} channels")
    wanted = lax.stop_gradient(jnp.maximum(teacher, jnp.broadcast_to(margin, teacher.shape)))
    counts = (student > wanted) | (wanted > 0)
    return _mean(jnp.where(counts, jnp.square(student - wanted), 0), where)


@in_float32
def hierarchical(student: Maps, teacher: Maps, *, where: Where = None) -> Losses:
    """Returns the mean squared difference of features and of their averages (HCL; Chen et al. 2021, arXiv:2104.09044).

    Maps are compared at their own size, weight 1, and averaged to 4 x 4, 2 x 2 and 1 x 1 places, as far as these are
    smaller, with half of the weight each time; the weights are then made to sum to one. Raises ValueError for features
    that are no maps or shapes that differ.
    """
    check_maps(student, teacher)
    check_same_shape(student, teacher, "features", _REGRESS)
    student, teacher = unpadded(where, student, lax.stop_gradient(teacher))
    pairs = [(student, teacher)]
    places = [n for n in (4, 2, 1) if n < min(student.shape[1:3])]
    pairs += [(average_pool_to(pairs[0][0], n, n), average_pool_to(pairs[0][1], n, n)) for n in places]
    weights = [0.5**level for level in range(len(pairs))]
    means = jnp.stack([_mean(jnp.square(ours - theirs)) for ours, theirs in pairs])
    return zeroed(where, jnp.asarray(weights, means.dtype) @ means / sum(weights))


_LEAST_VARIANCE = 1e-5


def _pair(student: Features, teacher: Features, where: Where, remedy: str = _REGRESS) -> tuple[Array, Array]:
    """Returns features of one shape without padding, the teacher's frozen."""
    check_same_shape(student, teacher, "features", remedy)
    check_places(student)
    student, teacher = unpadded(where, student, lax.stop_gradient(teacher), places=None)
    return student, teacher


def _flow(maps: tuple[Maps, Maps], where: Where) -> Float[Array, "batch channels channels2"]:
    _check_maps_of_batch(*maps)
    front, behind = common_size(*unpadded(where, *maps))
    return jnp.einsum("bhwi,bhwj->bij", front, behind) / (front.shape[1] * front.shape[2])


def _check_maps_of_batch(one: Array, other: Array) -> None:
    check_maps(one, other)
    check_same_batch(one, other, "features")


def _flat_unit(maps: Float[Array, "batch *places"]) -> Float[Array, "batch features"]:
    return unit(maps.reshape(len(maps), -1), axis=1)


def _mean(values: Float[Array, "batch *rest"], where: Where = None) -> Losses:
    """Returns the mean over all but the first axis, of what counts."""
    return mean(values, where, tuple(range(1, values.ndim)))
