"""One contract for every factorization: what the factors mean, that they run as small operations, and bad input."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcompress import cost, factorize, lift, pack
from jaxcompress.arrays import Factored, densify
from jaxcompress.prune import magnitude
from jaxcompress.quantize import weights

KEY = jax.random.key(0)
H, W, I, O = 3, 2, 6, 8  # noqa: E741


def gaussian(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


CONVOLUTIONS = {
    "channel": lambda p, **o: factorize.svd(p, 4, **o),
    "spatial": lambda p, **o: factorize.svd(p, 5, split="spatial", **o),
    "tucker2": lambda p, **o: factorize.tucker2(p, (3, 4), **o),
    "tucker": lambda p, **o: factorize.tucker(p, (2, 1, 3, 4), **o),
    "cp": lambda p, **o: factorize.cp(p, 6, key=KEY, sweeps=20, **o),
    "tensor_train": lambda p, **o: factorize.tensor_train(p, (3, 2), (2, 4), (3, 2), **o),
    "kronecker": lambda p, **o: factorize.kronecker(p, (3, 2), 2, **o),
}
DENSE = {
    "svd": lambda p, **o: factorize.svd(p, 4, **o),
    "tucker2": lambda p, **o: factorize.tucker2(p, (3, 4), **o),
    "tensor_train": lambda p, **o: factorize.tensor_train(p, (4, 4), (3, 5), 2, **o),
    "kronecker": lambda p, **o: factorize.kronecker(p, (4, 3), 2, **o),
}
EVERY_CONVOLUTION = pytest.mark.parametrize("name", CONVOLUTIONS)
EVERY_DENSE = pytest.mark.parametrize("name", DENSE)
EVERY = pytest.mark.parametrize(
    ("make", "shape"),
    [(make, (H, W, I, O)) for make in CONVOLUTIONS.values()] + [(make, (16, 15)) for make in DENSE.values()],
    ids=[*CONVOLUTIONS, *(f"{name}_dense" for name in DENSE)],
)

PADDINGS = ("SAME", "VALID", ((2, 1), (0, 3)))


@pytest.mark.parametrize("dilation", [(1, 1), (2, 1)])
@pytest.mark.parametrize("strides", [(1, 1), (2, 1), (2, 3)])
@EVERY_CONVOLUTION
@pytest.mark.sampled(5)
def test_a_factorized_convolution_equals_the_dense_one(name, strides, dilation):
    leaf = CONVOLUTIONS[name]("w").init({"w": gaussian(H, W, I, O)})["w"]
    x = gaussian(2, 7, 8, I, seed=1)

    def convolve(kernel):
        options = {"rhs_dilation": dilation, "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
        return [lax.conv_general_dilated(x, kernel, strides, padding, **options) for padding in PADDINGS]

    for ours, whole in zip(jax.jit(lift(convolve))(leaf), convolve(leaf.dense()), strict=True):
        np.testing.assert_allclose(ours, whole, rtol=1e-4, atol=1e-4)


@EVERY_CONVOLUTION
def test_transposed_and_channels_first_convolutions_equal_the_dense_ones(name):
    leaf = CONVOLUTIONS[name]("w").init({"w": gaussian(H, W, I, O)})["w"]
    x = gaussian(2, 7, 8, I, seed=1)

    def transposed(kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, (1, 1), ((2, 1), (1, 2)), (2, 2), dimension_numbers=numbers)

    def channels_first(kernel):
        planes = jnp.moveaxis(x, -1, 1)
        return lax.conv_general_dilated(planes, kernel, (1, 2), "SAME", dimension_numbers=("NCHW", "HWIO", "NCHW"))

    for convolve in (transposed, channels_first):
        np.testing.assert_allclose(lift(convolve)(leaf), convolve(leaf.dense()), rtol=1e-4, atol=1e-4)


@EVERY_CONVOLUTION
def test_a_grouped_convolution_equals_the_dense_one_or_is_refused_by_name(name):
    leaf = CONVOLUTIONS[name]("w").init({"w": gaussian(H, W, I, O)})["w"]
    x = gaussian(2, 5, 5, 2 * I, seed=1)

    def convolve(kernel):
        options = {"feature_group_count": 2, "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
        return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", **options)

    if name in ("tensor_train", "kronecker"):
        told = rf"of shape \(3, 2, 6, 8\) stands in a convolution of 2 groups.*{name}\[w\]"
        with pytest.raises(ValueError, match=told):
            lift(convolve)(leaf)
    else:
        np.testing.assert_allclose(lift(convolve)(leaf), convolve(leaf.dense()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("equation", ["ab,bc->ac", "xab,bc->xac", "bax,bc->axc"])
@EVERY_DENSE
def test_a_factorized_product_equals_the_dense_one_on_either_side(name, equation):
    leaf = DENSE[name]("w").init({"w": gaussian(16, 15)})["w"]
    x = gaussian(*({"a": 5, "b": 16, "x": 2}[axis] for axis in equation.partition(",")[0]), seed=1)
    left, right = equation.partition("->")[0].split(",")
    swapped = f"{right},{left}->{equation.partition('->')[2]}"
    for product in (lambda kernel: jnp.einsum(equation, x, kernel), lambda kernel: jnp.einsum(swapped, kernel, x)):
        np.testing.assert_allclose(lift(product)(leaf), product(leaf.dense()), rtol=1e-4, atol=1e-4)


@EVERY_DENSE
def test_a_transposed_factorized_kernel_equals_the_dense_one(name):
    leaf = DENSE[name]("w").init({"w": gaussian(16, 15)})["w"]
    x = gaussian(5, 15, seed=1)
    np.testing.assert_allclose(lift(lambda w: x @ w.T)(leaf), x @ leaf.dense().T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["channel", "spatial", "tucker2", "tucker", "cp"])
def test_a_factorized_convolution_multiplies_less(name):
    kernel, x = gaussian(3, 3, 32, 32), jax.ShapeDtypeStruct((1, 8, 8, 32), jnp.float32)
    made = {
        "channel": factorize.svd("w", 8),
        "spatial": factorize.svd("w", 8, split="spatial"),
        "tucker2": factorize.tucker2("w", 8),
        "tucker": factorize.tucker("w", (3, 3, 8, 8)),
        "cp": factorize.cp("w", 8, key=KEY, sweeps=5),
    }[name].init({"w": kernel})["w"]

    def convolve(kernel, x):
        return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    places = 8 * 8
    by_hand = {
        "channel": 9 * 32 * 8 + 8 * 32,
        "spatial": 3 * 32 * 8 + 3 * 8 * 32,
        "tucker2": 32 * 8 + 9 * 8 * 8 + 8 * 32,
        "tucker": 32 * 8 + 9 * 8 * 8 + 8 * 32,
        "cp": 32 * 8 + 3 * 8 + 3 * 8 + 8 * 32,
    }[name]
    # The convolutions alone: the factors of a window are multiplied once, however many places there are.
    counted = [op.macs for op in cost(lift(convolve), made, x) if op.name == "conv_general_dilated"]
    assert sum(counted) == places * by_hand


@EVERY
def test_factors_are_fewer_weights_in_packed_files_and_gradients(make, shape):
    params = make("w").init({"w": gaussian(*shape)})
    leaf = params["w"]
    assert isinstance(leaf, Factored) and leaf.shape == shape == leaf.dense().shape
    assert sum(part.size for part in leaf.parts()) < np.prod(shape)
    np.testing.assert_array_equal(pack(params)["w"].dense(), leaf.dense())
    upstream = gaussian(*shape, seed=1)
    slopes = jax.jit(jax.grad(lambda p: jnp.sum(densify(p)["w"] * upstream)))(params)["w"]
    assert all(bool(jnp.any(part != 0)) for part in slopes.parts())


@EVERY
@pytest.mark.sampled(3)
def test_factors_can_be_pruned_and_quantized_by_their_paths(make, shape):
    params = make("w").init({"w": gaussian(*shape)})
    first = next(iter(type(params["w"]).__dataclass_fields__))
    path = f"w/{first}/0" if first in ("cores", "window") else f"w/{first}"
    params = weights(path, 8).init(magnitude(path, 0.5).init(params))
    np.testing.assert_array_equal(pack(params)["w"].dense(), params["w"].dense())
    assert "Masked" in repr(jax.tree.structure(params))


@EVERY
def test_a_second_init_and_update_change_nothing(make, shape):
    transform = make("w")
    params = transform.init({"w": gaussian(*shape)})
    assert transform.init(params)["w"] is params["w"] and transform.update(params, 3) is params


@EVERY
def test_the_whole_error_shrinks_with_the_form_that_holds_more(make, shape):
    kernel = gaussian(*shape)
    error = float(jnp.sum(jnp.square(make("w").init({"w": kernel})["w"].dense() - kernel)))
    assert error < float(jnp.sum(jnp.square(kernel)))


@EVERY
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_by_path(make, shape, value):
    with pytest.raises(ValueError, match=r"w holds \d+ entries that are not finite"):
        make("w").init({"w": gaussian(*shape).at[(1,) * len(shape)].set(value)})


@EVERY
def test_compressed_weights_are_refused_by_kind_with_a_way_out(make, shape):
    with pytest.raises(ValueError, match="w is already Masked; factorize first, then mask or quantize w/"):
        make("w").init(magnitude("w", 0.5).init({"w": gaussian(*shape)}))


@pytest.mark.parametrize(
    "transform",
    [
        lambda p, **o: factorize.svd(p, 8, **o),
        lambda p, **o: factorize.svd(p, 12, split="spatial", **o),
        lambda p, **o: factorize.tucker2(p, (6, 8), **o),
        lambda p, **o: factorize.tucker(p, (3, 2, 6, 8), **o),
        lambda p, **o: factorize.cp(p, 60, key=KEY, sweeps=2, **o),
        lambda p, **o: factorize.tensor_train(p, (3, 2), (2, 4), 20, **o),
        lambda p, **o: factorize.kronecker(p, (6, 8), 6, **o),
    ],
    ids=CONVOLUTIONS,
)
def test_factors_that_hold_more_are_declined_by_a_warning_unless_always(transform):
    kernel = gaussian(H, W, I, O)
    with pytest.warns(factorize.Declined, match=r"w stays as it is: its factors would hold [\d,]+ weights"):
        assert transform("w").init({"w": kernel})["w"] is kernel
    assert isinstance(transform("w", always=True).init({"w": kernel})["w"], Factored)


ONLY_CONVOLUTIONS = {
    "spatial": lambda: factorize.svd("w", 1, split="spatial"),
    "tucker": lambda: factorize.tucker("w", 1),
    "cp": lambda: factorize.cp("w", 1, key=KEY),
}


@pytest.mark.parametrize("name", ONLY_CONVOLUTIONS)
def test_forms_of_convolutions_refuse_other_kernels_by_path(name):
    with pytest.raises(ValueError, match=r"w has shape \(4, 4\); .* needs a convolution \(height, width, in, out\)"):
        ONLY_CONVOLUTIONS[name]().init({"w": gaussian(4, 4)})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: factorize.tucker2("fc", 0), "rank 0 for pattern 'fc' is not an integer of at least 1"),
        (lambda: factorize.tucker2("fc", (1, 2, 3)), "tucker2 of 'fc' takes one rank or 2, not 3"),
        (lambda: factorize.tucker("fc", (1, 2)), "tucker of 'fc' takes one rank or 4, not 2"),
        (lambda: factorize.tucker2("fc", 2, round_to=0), "round_to=0 for pattern 'fc' must be at least 1"),
        (lambda: factorize.cp("fc", 0, key=KEY), "rank 0 for pattern 'fc' is not an integer of at least 1"),
        (lambda: factorize.cp("fc", 1, key=KEY, tries=0), "tries 0 for pattern 'fc'"),
        (
            lambda: factorize.tensor_train("fc", (2,), (2, 2), 1),
            r"modes \(2,\) and \(2, 2\) for pattern 'fc' are not",
        ),
        (lambda: factorize.tensor_train("fc", (2, 0), (2, 2), 1), "each at least 1"),
        (lambda: factorize.tensor_train("fc", (2, 2), (2, 2), 0), "rank 0 for pattern 'fc' is not an integer"),
        (lambda: factorize.kronecker("fc", (0, 2)), r"left \(0, 2\) for pattern 'fc' is not a shape"),
        (lambda: factorize.svd("fc", 2, split="rows"), "split 'rows' for pattern 'fc' is not 'channel'"),
        (lambda: factorize.svd("fc", 2, split="spatial", metric={}), "'spatial' without a metric"),
    ],
)
def test_bad_arguments_are_named_with_the_pattern(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (factorize.tucker2("w", (7, 8)), r"rank 7 is above the full rank 6 of w, shape (3, 2, 6, 8)"),
        (factorize.svd("w", 17, split="spatial"), "rank 17 is above the full rank 16 of w, shape (3, 2, 6, 8)"),
        (factorize.svd("w", {"v": 2}), "there is no rank for w; there are ranks for v"),
        (factorize.svd("w", {"w": 0}), "rank 0 for w is not an integer of at least 1"),
        (
            factorize.tensor_train("w", (3, 3), (2, 4), 2),
            "modes (3, 3) and (2, 4) do not multiply to w, shape (3, 2",
        ),
        (factorize.tensor_train("w", (3, 2), (2, 4), (2,)), "w has 3 cores and takes 2 ranks, not 1"),
        (
            factorize.kronecker("w", (4, 2)),
            "left (4, 2) does not divide the inputs and outputs of w, shape",
        ),
    ],
)
def test_what_does_not_fit_the_kernel_is_named_with_its_path(transform, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        transform.init({"w": gaussian(H, W, I, O)})


def test_ranks_come_from_tables_and_rules_and_are_rounded_up():
    params = {"a": gaussian(12, 16), "b": gaussian(12, 16, seed=1)}
    leaves = factorize.svd("a|b", {"a": 2, "b": 5}).init(params)
    assert (leaves["a"].rank, leaves["b"].rank) == (2, 5)
    assert factorize.svd("a", factorize.ratio(0.5)).init(params)["a"].rank == 3  # 0.5 * 192 / 28 = 3.4
    assert factorize.svd("a", factorize.ratio(0.5), round_to=4).init(params)["a"].rank == 4
    pair = factorize.tucker2("w", (factorize.ratio(0.3), 4)).init({"w": gaussian(H, W, I, O)})["w"]
    assert pair.ranks == (1, 4)  # 0.3 * 288 / (6 + 48) = 1.6
