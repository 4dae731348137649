"""Knowledge review: every stage of a student learns from the earlier stages of its teacher too.

Chen, Liu, Zhao & Jia 2021, arXiv:2104.09044. From the last stage to the first, features are fused with what was made of
the stages behind them, and each fused map is held to the teacher's of its stage.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxcompress.distill.checks import check_maps, check_same_batch
from jaxcompress.distill.connectors import connect, connector, convolve
from jaxcompress.distill.features import hierarchical
from jaxcompress.distill.padding import Where, unpadded
from jaxcompress.distill.precision import in_float32
from jaxcompress.numerics.resizing import average_pool_to, nearest_to
from jaxcompress.paths import Params

Maps = Float[Array, "batch height width channels"]
Losses = Float[Array, "batch"]


def fusions(key: Array, student: Sequence[int], teacher: Sequence[int], *, width: int) -> Params:
    """Draws the fusions (ABF, figure 3b) of stages with these numbers of channels, first to last.

    Each brings its stage to `width` channels, mixes in what comes from the stage behind by two maps of attention, and
    goes on to the teacher's channels. Raises ValueError unless both have as many stages, one or more.
    """
    if len(student) != len(teacher) or not student:
        raise ValueError(f"stages with {list(student)} channels and a teacher's with {list(teacher)} do not pair up")
    made = {}
    for stage, (own, inputs, outputs) in enumerate(
        zip(jax.random.split(key, len(student)), student, teacher, strict=True), 1
    ):
        keys = jax.random.split(own, 3)
        made[f"stage{stage}"] = {
            "narrow": connector(keys[0], inputs, width),
            "out": connector(keys[1], width, outputs, size=3),
        }
        if stage < len(student):
            kernel = jax.nn.initializers.lecun_normal()(keys[2], (1, 1, 2 * width, 2))
            made[f"stage{stage}"]["attention"] = {"kernel": kernel, "bias": jnp.zeros(2)}
    return made


@in_float32
def review(params: Params, student: Sequence[Maps], teacher: Sequence[Maps], *, where: Where = None) -> Losses:
    """Returns the sum over the stages of the `hierarchical` loss of fused features (eq. 5 of the paper).

    `params` are of `fusions`, and the maps stand first stage to last. A fused map is brought to the size of the
    teacher's by averages, or by repeating places where that is larger. It is computed in float32 where maps are of half
    precision. `where`, booleans (batch,), is false for examples that are padding, left out of the normalizations too.
    Raises ValueError for another number of stages, features that are no maps or not of one batch, and other channels
    than the fusions were drawn for.
    """
    if not len(student) == len(teacher) == len(params):
        raise ValueError(f"{len(student)} stages of the student and {len(teacher)} of the teacher: not {len(params)}")
    check_maps(*student, *teacher)
    for maps in (*student, *teacher):
        check_same_batch(student[0], maps, "features")
    student, teacher = unpadded(where, *student), unpadded(where, *teacher)
    total, behind = jnp.zeros(len(student[0]), student[0].dtype), None
    for stage in reversed(range(len(student))):
        layers = params[f"stage{stage + 1}"]
        behind = _fused(layers, student[stage], behind, where)
        fused = connect(layers["out"], _sized(behind, *teacher[stage].shape[1:3]), where=where)
        total = total + hierarchical(fused, teacher[stage], where=where)
    return total


def _fused(layers: Params, own: Maps, behind: Maps | None, where: Where) -> Maps:
    """Mixes a stage's features, brought to a common width, with those of the stage behind."""
    own = connect(layers["narrow"], own, where=where)
    if behind is None:
        return own
    behind = nearest_to(behind, *own.shape[1:3])
    both = jnp.concatenate([own, behind], axis=-1)
    weights = convolve(both, layers["attention"]["kernel"])
    weights = jax.nn.sigmoid(weights + jnp.broadcast_to(layers["attention"]["bias"], weights.shape))
    return own * weights[..., :1] + behind * weights[..., 1:]


def _sized(maps: Maps, height: int, width: int) -> Maps:
    if height <= maps.shape[1] and width <= maps.shape[2]:
        return average_pool_to(maps, height, width)
    return nearest_to(maps, height, width)
