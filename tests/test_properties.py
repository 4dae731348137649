"""Random chains of all transforms over random trees: what holds for every one of them.

The short form draws the same few examples every time. The long form draws others for as many examples as it is told:
``JAXCOMPRESS_EXAMPLES=2000 pytest tests/test_properties.py``.
"""

import os
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

import jaxcompress as jc
from jaxcompress.arrays import densify
from jaxcompress.export.packed import from_bytes, to_bytes
from jaxcompress.paths import flatten
from tests.arrays.test_contract import assert_same_leaf

pytestmark = pytest.mark.filterwarnings("ignore::jaxcompress.factorize.Declined")

EXAMPLES = os.environ.get("JAXCOMPRESS_EXAMPLES")
KEY = jax.random.key(0)
PROFILE = settings(
    max_examples=int(EXAMPLES or 20),
    derandomize=EXAMPLES is None,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)


def loss(params, batch):
    return sum(
        (jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(densify(params))), 0.0 * batch
    )


# Every public transform of weights that needs no model, by a pattern and a name.
TRANSFORMS = {
    "magnitude": lambda p, n: jc.prune.magnitude(p, 0.5, name=n),
    "magnitude_global": lambda p, n: jc.prune.magnitude(p, 0.7, scope="global", name=n),
    "threshold": lambda p, n: jc.prune.threshold(p, 0.8, name=n),
    "lamp": lambda p, n: jc.prune.by_score(p, 0.4, allocation="lamp", name=n),
    "erk": lambda p, n: jc.prune.by_score(p, 0.6, allocation="erk", name=n),
    "blocks": lambda p, n: jc.prune.by_score(p, 0.5, structure=jc.prune.Blocks(2, 2), name=n),
    "per_output": lambda p, n: jc.prune.by_score(p, 0.5, structure=jc.prune.PerOutput(), name=n),
    "n_m": lambda p, n: jc.prune.n_m(p, 1, 2, name=n),
    "gradual": lambda p, n: jc.prune.magnitude(p, jc.schedules.cubic(0.1, 0.9, begin=0, end=4), name=n),
    "straight_through": lambda p, n: jc.prune.straight_through(p, 0.5, decay=0.1, name=n),
    "sr_ste": lambda p, n: jc.prune.sr_ste(p, 1, 2, name=n),
    "movement": lambda p, n: jc.prune.movement(p, 0.5, name=n),
    "ac_dc": lambda p, n: jc.prune.ac_dc(p, 0.5, begin=1, end=9, compressed_steps=2, dense_steps=2, name=n),
    "rigl": lambda p, n: jc.prune.rigl(p, 0.5, loss, key=KEY, end=9, every=1, name=n),
    "set": lambda p, n: jc.prune.sparse_evolution(p, 0.5, key=KEY, every=1, name=n),
    "weights": lambda p, n: jc.quantize.weights(p, 4, name=n),
    "asymmetric": lambda p, n: jc.quantize.weights(p, 3, granularity="tensor", symmetric=False, name=n),
    "group": lambda p, n: jc.quantize.weights(p, 8, granularity="group", group=2, name=n),
    "stochastic": lambda p, n: jc.quantize.weights(p, 2, stochastic=True, name=n),
    "falling_bits": lambda p, n: jc.quantize.weights(p, jc.schedules.linear(8, 3, begin=0, end=4), name=n),
    "codebook": lambda p, n: jc.quantize.codebook(p, 2, name=n),
    "codebook_density": lambda p, n: jc.quantize.codebook(p, 3, initial="density", name=n),
    "codebook_global": lambda p, n: jc.quantize.codebook(p, 2, scope="global", initial="random", key=KEY, name=n),
    "binary": lambda p, n: jc.quantize.binary(p, name=n),
    "binary_stochastic": lambda p, n: jc.quantize.binary(p, stochastic=True, name=n),
    "xnor": lambda p, n: jc.quantize.binary(p, "xnor", name=n),
    "twn": lambda p, n: jc.quantize.ternary(p, name=n),
    "ttq": lambda p, n: jc.quantize.ternary(p, "ttq", name=n),
    "float8": lambda p, n: jc.quantize.float8(p, name=n),
    "float8_e5m2": lambda p, n: jc.quantize.float8(p, "e5m2", False, granularity="channel", name=n),
    "lsq": lambda p, n: jc.quantize.lsq(p, 4, name=n),
    "lsq_channel": lambda p, n: jc.quantize.lsq(p, 2, granularity="channel", symmetric=True, name=n),
    "dorefa": lambda p, n: jc.quantize.dorefa(p, 8, name=n),
    "dorefa_1_bit": lambda p, n: jc.quantize.dorefa(p, 1, name=n),
    "svd": lambda p, n: jc.factorize.svd(p, jc.factorize.ratio(0.5), always=True, name=n),
    "svd_energy": lambda p, n: jc.factorize.svd(p, energy=0.9, always=True, name=n),
    "svd_spatial": lambda p, n: jc.factorize.svd(p, 1, split="spatial", always=True, name=n),
    "tucker": lambda p, n: jc.factorize.tucker(p, 1, always=True, name=n),
    "tucker2": lambda p, n: jc.factorize.tucker2(p, 1, always=True, name=n),
    "cp": lambda p, n: jc.factorize.cp(p, 1, key=KEY, tries=1, sweeps=5, always=True, name=n),
    "additive": lambda p, n: jc.additive(
        p, jc.prune.magnitude(p, 0.8, name=f"{n}a"), jc.quantize.codebook(p, 1, name=f"{n}b"), rounds=2, name=n
    ),
    "every": lambda p, n: jc.every(2, jc.prune.magnitude(p, 0.5, name=n)),
}
PATTERNS = ("a", ".*", "b/kernel", "b/.*", "a/[uv]", "a/weight", ".*/(u|weight|core)", "a/mask", "a/centroids")
WEIGHTS, OTHERS = ("float32", "float32", "bfloat16", "float16"), ("int32", "bool", "float64")
FILLED = ((8, 6), (8, 6), (4, 4), (4, 4), (1, 8), (16, 2), (3, 3, 2, 4), (1, 1, 4, 4), (2, 6, 4), (6,), ())
SHAPES = st.sampled_from(FILLED) | st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)


@st.composite
def arrays(draw):
    """Draws an array of weights; now and then one of what are none."""
    odd = draw(st.integers(0, 11)) == 11
    shape = draw(st.sampled_from([(0, 4), (3, 0), (0,)]) if odd and draw(st.booleans()) else SHAPES)
    dtype = draw(st.sampled_from(OTHERS if odd else WEIGHTS))
    values = np.random.default_rng(draw(st.integers(0, 2**16))).normal(size=shape)
    values = values * draw(st.sampled_from([1.0, 1.0, 1.0, 0.0, 1e-20, 100.0, 1e4]))
    if draw(st.integers(0, 3)) == 3:
        values = np.round(values)  # with equal and with zero weights
    return np.asarray(values) if dtype == "float64" else jnp.asarray(values, jnp.float32).astype(dtype)


TREES = st.fixed_dictionaries({"a": arrays(), "b": st.fixed_dictionaries({"kernel": arrays(), "bias": arrays()})})
LINKS = st.tuples(st.sampled_from(list(TRANSFORMS)), st.sampled_from(("a",) * 20 + ("b/kernel",) * 6 + PATTERNS))
CHAINS = st.lists(LINKS, min_size=1, max_size=3)


def compressed(tree, chain):
    """Returns a chain and what its init makes of a tree; None where it is refused, by a ValueError with a reason."""
    transform = jc.chain(*(TRANSFORMS[name](pattern, f"t{i}") for i, (name, pattern) in enumerate(chain)))
    try:
        return transform, transform.init(tree)
    except ValueError as error:
        assert type(error) in (ValueError, jc.factorize.Unsound) and str(error)
        return transform, None


def same_trees(a, b):
    a, b = flatten(a), flatten(b)
    assert list(a) == list(b)
    for path, leaf in a.items():
        assert_same_leaf(leaf, b[path])


def kinds(params):
    return jax.tree.structure(params), [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in jax.tree.leaves(params)]


def apply(params, x):
    """Multiplies x by every kernel that is a matrix or a convolution, and adds up all others."""
    outputs = []
    for leaf in jax.tree.leaves(params):
        leaf = jnp.asarray(leaf).astype(jnp.float32)
        if leaf.ndim == 2:
            outputs.append(jnp.sum(x[:, : leaf.shape[0]] @ leaf, axis=1))
        elif leaf.ndim == 4:
            images = jnp.broadcast_to(x[:, :1, None, None], (len(x), 5, 5, leaf.shape[2]))
            outputs.append(
                jnp.sum(
                    jax.lax.conv_general_dilated(
                        images, leaf, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
                    ),
                    (1, 2, 3),
                )
            )
        else:
            outputs.append(jnp.full(len(x), jnp.sum(leaf)))
    return jnp.stack(outputs)


@given(TREES, CHAINS)
@PROFILE
def test_what_holds_for_every_chain_of_transforms(tree, chain):
    transform, params = compressed(tree, chain)
    event("refused" if params is None else "compressed")
    if params is not None:
        # Such a pattern of an earlier transform may match within what a later one makes, which a second init wraps too.
        check(tree, transform, params, settled=not any("*" in pattern for _, pattern in chain[:-1]))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_what_holds_for_every_transform_alone(name, dtype):
    shape = (3, 3, 4, 6) if name in ("tucker", "cp", "svd_spatial") else (8, 6)
    weight = jnp.asarray(np.random.default_rng(0).normal(size=shape), dtype)
    tree = {"a": weight, "b": {"kernel": weight[..., :2], "bias": jnp.ones(6)}}
    transform, params = compressed(tree, [(name, "a")])
    assert params is not None
    check(tree, transform, params)


def check(tree, transform, params, settled=True):
    """Checks all that holds for what a transform made of a tree."""
    whole = densify(params)
    for path, leaf in flatten(whole).items():
        assert bool(jnp.all(jnp.isfinite(leaf))), f"{path} is not finite"
        assert jnp.shape(leaf) == jnp.shape(flatten(tree)[path]), path

    # The parts that are trained and fixed.
    same_trees(jc.combine(*jc.partition(params)), params)

    # An update keeps the structure; so does init, which keeps a tree that carries the transform already.
    again = transform.init(params)
    assert kinds(again) == kinds(params) or not settled
    assert kinds(transform.init(again)) == kinds(again)
    update = partial(transform.update, key=KEY, batch=jnp.float32(1))
    try:
        updated = update(params, 2)
    except ValueError as error:
        assert re.search("clips plain or masked weights only|cannot in the .* made of them since", str(error))
        updated = params
    assert kinds(updated) == kinds(jax.tree.map(jnp.asarray, params))

    # Compiled as eager.
    for a, b in zip(jax.tree.leaves(jax.jit(densify)(params)), jax.tree.leaves(whole), strict=True):
        tolerance = 1e-5 if b.dtype.itemsize > 2 else 2e-2
        np.testing.assert_allclose(
            np.asarray(a, np.float64),
            np.asarray(b, np.float64),
            rtol=tolerance,
            atol=tolerance * float(np.abs(b).max(initial=0)),
        )

    # Under lift as of the dense weights.
    x = jax.random.normal(KEY, (2, 9 if all(jnp.shape(leaf)[:1] <= (9,) for leaf in jax.tree.leaves(whole)) else 16))
    dense, lifted = apply(whole, x), jc.lift(apply)(params, x)
    np.testing.assert_allclose(lifted, dense, rtol=2e-2, atol=2e-2 * float(jnp.max(jnp.abs(dense), initial=1e-3)))

    # The file: its bits, and the ledger.
    try:
        data = to_bytes(params)
    except ValueError as error:
        assert "float64 holds values that float32 does not" in str(error)
        return
    same_trees(from_bytes(data), jc.pack(params))
    assert to_bytes(from_bytes(data)) == data
    assert jc.ledger(None, params).packed_bytes == len(data)
