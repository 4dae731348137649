import doctest
import functools
import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr

from jaxcompress import adapters, chain, combine, densify, factorize, lift, macs, pack, partition, prune, quantize
from jaxcompress.arrays import Clustered, FakeQuantized, Kronecker, LowRank, Masked, Reshaped, Tucker2
from jaxcompress.interpreters.lift import Rebuilt
from jaxcompress.paths import rewrite
from tests.nets import (
    NETS,
    NNXMLP,
    SMALL,
    LinenLeNet5,
    LinenMLP,
    LinenResNet,
    NNXLeNet5,
    data,
    linen_net,
    nnx_net,
    odd_square,
)

BF16 = ("linen_bf16", "nnx_bf16")
NO_GRADIENT = ("while",)  # JAX has none for a loop of unknown length

net = functools.cache(lambda name: NETS[name]())


def masked(leaf):
    return Masked(leaf, jnp.asarray(np.abs(leaf) > 0.3 * np.std(leaf)))


def factors(leaf, rank=2):
    """Replaces a kernel by random factors of about its size."""
    draw = np.random.default_rng(leaf.size)
    size = (np.std(leaf) ** 2 / rank) ** 0.25
    u, v = (
        (size * draw.standard_normal(s)).astype(np.float32) for s in ((*leaf.shape[:-1], rank), (rank, leaf.shape[-1]))
    )
    return LowRank(jnp.asarray(u), jnp.asarray(v), leaf.ndim - 1)


def nested(leaf):
    """Factors, one of them masked, both quantized."""
    thin, bits = factors(leaf), jnp.int32(8)
    axes = tuple(range(-leaf.ndim, 0))
    return replace(thin, u=FakeQuantized(masked(thin.u), bits, axes), v=FakeQuantized(thin.v, bits, (-2, -1)))


STYLES = {"masked": masked, "factors": factors, "nested": nested}


@functools.cache
def compressed(name, style):
    return rewrite(net(name).params, net(name).kernels, lambda path, leaf: STYLES[style](leaf))


def tolerance(name):
    return {"rtol": 5e-2, "atol": 5e-2} if name in BF16 else {"rtol": 1e-5, "atol": 1e-5}


def quick_jit(function):
    """Compiles with little optimisation: these programs run once."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def assert_close(a, b, **tolerance):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(np.float32(x), np.float32(y), **tolerance), a, b)


def inner_jaxprs(jaxpr):
    yield jaxpr
    for eqn in jaxpr.eqns:
        for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda v: isinstance(v, Jaxpr | ClosedJaxpr)):
            if isinstance(value, Jaxpr | ClosedJaxpr):
                yield from inner_jaxprs(value.jaxpr if isinstance(value, ClosedJaxpr) else value)


def operand_shapes(apply, *args):
    """Lists the shapes of everything that goes into a product or convolution."""
    found = []
    for jaxpr in inner_jaxprs(jax.make_jaxpr(apply)(*args).jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name in ("dot_general", "conv_general_dilated"):
                found += [v.aval.shape for v in eqn.invars]
    return found


# Kernels of attention have their factors where they are not contracted here: then the dense ones are right too.
MULTIPLIED_OUT = pytest.mark.filterwarnings("ignore::jaxcompress.interpreters.lift.Rebuilt")


@MULTIPLIED_OUT
@pytest.mark.parametrize("name", NETS)
@pytest.mark.sampled(3)
def test_lifted_values_and_gradients_of_nested_factors_equal_the_dense_ones(name):
    apply, x = net(name).apply, net(name).x
    trained, fixed = partition(compressed(name, "nested"))

    def run(trained, form):
        out = apply(form(combine(trained, fixed)), x)
        return jnp.sum(jnp.sin(out.astype(jnp.float32))), out

    outputs = {}
    for label, form in (("lifted", lambda p: p), ("dense", densify)):
        function = functools.partial(run, form=form)
        run_both = function if name in NO_GRADIENT else jax.value_and_grad(function, has_aux=True)
        outputs[label] = quick_jit(run_both)(trained)
    assert_close(outputs["lifted"], outputs["dense"], **tolerance(name))


@pytest.mark.parametrize("name", NETS)
def test_lifted_values_of_masked_weights_equal_the_dense_ones(name):
    tree = compressed(name, "masked")
    both = quick_jit(lambda tree, x: (net(name).apply(tree, x), net(name).apply(densify(tree), x)))
    assert_close(*both(tree, net(name).x), **tolerance(name))


@pytest.mark.parametrize("name", ["linen_lenet5", "linen_scan", "linen_rnn", "nnx_mlp", "cond"])
@pytest.mark.sampled(2)
def test_lifted_model_under_vmap_over_a_batch_of_compressed_trees(name):
    apply, x = net(name).apply, net(name).x
    tree = compressed(name, "nested")
    batch = jax.tree.map(lambda a: jnp.stack([a, a, a]), tree)
    trained, fixed = partition(batch)
    batch = combine(jax.tree.map(lambda a: a.at[1].multiply(1.5), trained), fixed)
    out = quick_jit(jax.vmap(apply, in_axes=(0, None)))(batch, x)
    dense = quick_jit(lambda tree, x: apply(densify(tree), x))
    for i in (0, 1):
        assert_close(out[i], dense(jax.tree.map(lambda a, i=i: a[i], batch), x), rtol=1e-5, atol=2e-5)
    assert not np.allclose(out[0], out[1])


@pytest.mark.parametrize("name", ["linen_mlp", "nnx_lenet5", "linen_scan", "fori"])
def test_lifted_model_trains_inside_scan(name):
    apply, x = net(name).apply, net(name).x
    trained, fixed = partition(compressed(name, "nested"))

    def loss(trained, form):
        return jnp.mean(jnp.square(apply(form(combine(trained, fixed)), x)))

    def steps(form):
        def step(trained, _):
            value, grads = jax.value_and_grad(loss)(trained, form)
            return jax.tree.map(lambda w, g: w - 0.01 * g, trained, grads), value

        return quick_jit(lambda trained: lax.scan(step, trained, None, length=3)[1])(trained)

    np.testing.assert_allclose(steps(lambda p: p), steps(densify), rtol=1e-5)


@MULTIPLIED_OUT
@pytest.mark.parametrize("name", ["linen_lenet5", "linen_rnn", "nnx_mlp", "nnx_attention", "cond"])
@pytest.mark.parametrize("packed", [False, True], ids=["training", "packed"])
@pytest.mark.sampled(3)
def test_lifted_model_is_exported_and_read_back(name, packed):
    apply, x = net(name).apply, net(name).x
    tree = pack(compressed(name, "nested")) if packed else compressed(name, "nested")
    # The format of jax.export knows dicts and lists, not our leaves: they go in as a list of arrays.
    parts, structure = jax.tree.flatten(tree)
    run = jax.jit(lambda parts, x: apply(jax.tree.unflatten(structure, parts), x))
    stored = jax.export.export(run)(parts, x).serialize()
    restored = jax.export.deserialize(stored)
    np.testing.assert_array_equal(restored.call(parts, x), run(parts, x))
    closed = jax.export.export(jax.jit(lambda x: apply(tree, x)))(x)
    assert_close(jax.export.deserialize(closed.serialize()).call(x), run(parts, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["nnx_lenet5"])
def test_every_form_of_leaf_runs_as_the_array_it_means(name):
    apply, params, x = net(name).apply, net(name).params, net(name).x
    recipe = chain(
        quantize.codebook("conv1/kernel", 3),
        quantize.weights("conv2/kernel", 8),
        prune.magnitude("fc1/kernel", 0.5),
        quantize.codebook("fc1/kernel", 3),
        prune.magnitude("fc2/kernel", 0.5, name="one"),
        prune.magnitude("fc2/kernel", 0.8, name="two"),
    )
    tree = recipe.init(params)
    for leaves in (tree, pack(tree)):
        np.testing.assert_array_equal(apply(leaves, x), apply(densify(tree), x))


# Thin products


DENSE_SHAPES = {
    "linen_mlp": {(9, 12), (12, 10)},
    "nnx_mlp": {(9, 12), (12, 10)},
    "linen_lenet5": {(5, 5, 4, 6), (96, 16)},
    "nnx_lenet5": {(5, 5, 4, 6), (96, 16)},
}
THIN_SHAPES = {
    "linen_mlp": {(9, 2), (2, 12), (12, 2), (2, 10)},
    "nnx_mlp": {(9, 2), (2, 12), (12, 2), (2, 10)},
    "linen_lenet5": {(5, 5, 4, 2), (1, 1, 2, 6), (96, 2), (2, 16)},
    "nnx_lenet5": {(5, 5, 4, 2), (1, 1, 2, 6), (96, 2), (2, 16)},
}


@pytest.mark.parametrize("name", DENSE_SHAPES)
def test_factors_run_as_thin_products_even_when_quantized_and_masked(name):
    apply, params, x = net(name).apply, net(name).params, net(name).x
    assert set(operand_shapes(apply, params, x)) >= DENSE_SHAPES[name]
    for tree in (compressed(name, "factors"), compressed(name, "nested")):
        for leaves in (tree, pack(tree)):
            shapes = set(operand_shapes(apply, leaves, x))
            assert shapes >= THIN_SHAPES[name]
            assert not shapes & DENSE_SHAPES[name]


@pytest.mark.parametrize(
    "name, thin", [("linen_remat", (8, 2)), ("linen_rnn", (6, 2)), ("linen_tied", (8, 2)), ("linen_bf16", (9, 2))]
)
def test_factors_stay_thin_inside_nested_programs(name, thin):
    assert thin in operand_shapes(net(name).apply, compressed(name, "factors"), net(name).x)


def test_stacked_factors_stay_thin_inside_a_scan_over_layers():
    apply, params, x = net("linen_scan").apply, net("linen_scan").params, net("linen_scan").x
    shape = params["stack"]["Dense_0"]["kernel"].shape
    assert shape == (3, 8, 8)
    stack = LowRank(data(3, 8, 2), data(3, 2, 8))
    tree = rewrite(params, "stack/Dense_0/kernel", lambda path, leaf: stack)
    assert_close(apply(tree, x), apply(densify(tree), x), rtol=1e-5, atol=1e-5)
    shapes = operand_shapes(apply, tree, x)
    assert (8, 2) in shapes and (8, 8) not in shapes


@pytest.mark.parametrize("make", [linen_net, nnx_net])
def test_compiled_flops_fall_with_the_rank(make):
    x = data(16, 64)
    if make is linen_net:
        apply, params, *_ = linen_net(LinenMLP((64, 64, 4)), x, "")
    else:
        apply, params, *_ = nnx_net(lambda rngs: NNXMLP(rngs, 64, (64, 64, 4)), x, "")
    pattern = "(fc[12]|layers/[01])/kernel"

    def flops(tree):
        return jax.jit(apply).lower(tree, x).compile().cost_analysis()["flops"]

    dense = flops(params)
    assert flops(factorize.svd(pattern, 4).init(params)) < 0.3 * dense
    assert flops(prune.magnitude(pattern, 0.9).init(params)) > 0.9 * dense


# Which scanned leaves may be taken apart


def scan_over(leaf, x):
    """Multiplies by each matrix of a stack in turn."""

    def apply(stack, x):
        return lax.scan(lambda x, kernel: (jnp.tanh(x @ kernel), None), x, stack)[0]

    np.testing.assert_allclose(lift(apply)(leaf, x), apply(leaf.dense(), x), rtol=1e-5, atol=1e-5)


STACKS = {
    "masked": lambda: Masked(data(4, 8, 8), data(4, 8, 8) > 0),
    "low_rank": lambda: LowRank(data(4, 8, 2), data(4, 2, 8)),
    "low_rank_across_layers": lambda: LowRank(data(4, 8, 3), data(3, 8), 2),
    "low_rank_across_layers_of_rank_length": lambda: LowRank(data(4, 8, 4), data(4, 8), 2),
    "fake_quantized": lambda: FakeQuantized(data(4, 8, 8), jnp.int32(4), (-2,)),
    "fake_quantized_by_layer": lambda: FakeQuantized(data(4, 8, 8), jnp.int32([2, 4, 6, 8])[:, None, None], (-2, -1)),
    "quantized": lambda: FakeQuantized(data(4, 8, 8), jnp.int32(4), (-3, -2, -1)).pack(),
    "clustered": lambda: Clustered(jnp.arange(256).reshape(4, 8, 8) % 5, data(5)),
    "clustered_with_as_many_clusters_as_layers": lambda: Clustered(jnp.arange(256).reshape(4, 8, 8) % 4, data(4)),
}


@pytest.mark.parametrize("name", STACKS)
def test_scan_over_a_stack_of_layers_slices_the_matrices_and_nothing_else(name):
    scan_over(STACKS[name](), data(2, 8))


def test_scan_over_the_rows_of_a_factorized_matrix():
    leaf = LowRank(data(4, 4), 2 * data(4, 4))

    def apply(matrix, x):
        return lax.scan(lambda x, row: (x + row, None), x, matrix)[0]

    x = data(4)
    np.testing.assert_allclose(lift(apply)(leaf, x), apply(leaf.dense(), x), rtol=1e-5, atol=1e-5)


# Convolutions


GRID = [
    (strides, padding, dilation, size)
    for strides, padding, dilation, size in itertools.product(
        ((1, 1), (2, 1), (2, 3)), ("SAME", "VALID", ((2, 1), (0, 3))), ((1, 1), (2, 1)), ((3, 3), (1, 1), (2, 3))
    )
]


@pytest.mark.parametrize("dilation", [(1, 1), (2, 1)])
@pytest.mark.parametrize("size", [(3, 3), (1, 1), (2, 3)])
def test_factored_convolution_equals_the_dense_one(size, dilation):
    leaf = LowRank(data(*size, 3, 2), data(2, 5), 3)
    x = data(2, 7, 8, 3)
    cases = [case[:2] for case in GRID if case[2:] == (dilation, size)]

    def convolve(kernel):
        return [
            lax.conv_general_dilated(
                *(x, kernel, strides, padding), rhs_dilation=dilation, dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            for strides, padding in cases
        ]

    assert len(GRID) >= 54 and len(cases) == 9
    assert (*size, 3, 5) not in operand_shapes(lift(convolve), leaf)
    assert_close(jax.jit(lift(convolve))(leaf), jax.jit(convolve)(leaf.dense()), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
    "numbers, x, options",
    [
        (("NHWC", "HWIO", "NHWC"), (2, 5, 5, 3), {"lhs_dilation": (2, 2), "padding": ((2, 1), (1, 2))}),
        (("NCHW", "HWIO", "NCHW"), (2, 3, 5, 5), {}),
        pytest.param(*(("NHWC", "OIHW", "NHWC"), (2, 5, 5, 3), {}), marks=MULTIPLIED_OUT),
        (("NHWC", "HWIO", "NHWC"), (2, 5, 5, 6), {"feature_group_count": 2}),
    ],
    ids=["transposed", "channels_first", "kernel_transposed", "grouped"],
)
def test_unusual_convolutions_equal_the_dense_one(numbers, x, options):
    inputs, outputs = ((4, 3, 3), 3) if numbers[1] == "OIHW" else ((3, 3, 3), 4)
    leaf = LowRank(data(*inputs, 2), data(2, outputs), 3)

    def convolve(kernel, x):
        return lax.conv_general_dilated(x, kernel, (1, 1), dimension_numbers=numbers, **{"padding": "SAME", **options})

    np.testing.assert_allclose(lift(convolve)(leaf, data(*x)), convolve(leaf.dense(), data(*x)), rtol=1e-5, atol=2e-5)


def test_factored_convolution_over_one_axis():
    leaf = LowRank(data(3, 4, 2), data(2, 5), 2)
    module = nn.Conv(5, (3,), strides=2, use_bias=False)
    x = data(2, 9, 4)
    apply, _ = adapters.linen.functional(module, {"params": {"kernel": leaf}})
    assert_close(apply({"kernel": leaf}, x), apply({"kernel": leaf.dense()}, x), rtol=1e-5, atol=1e-5)


# Products


@pytest.mark.parametrize("equation", ["ab,bc->ac", "bc,ab->ac", "ab,cb->ac", "xab,bc->xac", "ab,bc->ca", "bc,xab->xca"])
@pytest.mark.parametrize("place", [0, 1])
def test_products_with_a_factorized_operand_equal_the_dense_ones(equation, place):
    sizes = dict(a=3, b=4, c=5, x=2)
    shapes = [tuple(sizes[letter] for letter in term) for term in equation.split("->")[0].split(",")]
    if len(shapes[place]) != 2:
        shapes = shapes[::-1]
        equation = ",".join(equation.split("->")[0].split(",")[::-1]) + "->" + equation.split("->")[1]
    rows, columns = shapes[place]
    leaf, other = LowRank(data(rows, 2), data(2, columns)), data(*shapes[1 - place])

    def product(leaf):
        operands = (leaf, other) if place == 0 else (other, leaf)
        return jnp.einsum(equation, *operands)

    np.testing.assert_allclose(lift(product)(leaf), product(leaf.dense()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("axes", [((0, 1), (0, 1)), ((1, 0), (0, 1)), ((0, 1), (1, 0))])
def test_kernel_of_several_input_axes(axes):
    leaf = LowRank(data(3, 3, 2), data(2, 5), 2)
    product = lambda x, kernel: jnp.tensordot(x, kernel, axes)
    x = data(3, 3, 4)
    np.testing.assert_allclose(lift(product)(x, leaf), product(x, leaf.dense()), rtol=1e-5, atol=1e-5)
    flipped = lambda x, kernel: jnp.tensordot(kernel, x, axes[::-1])
    np.testing.assert_allclose(lift(flipped)(x, leaf), flipped(x, leaf.dense()), rtol=1e-5, atol=1e-5)


def test_product_of_two_factorized_matrices():
    a, b = LowRank(data(3, 2), data(2, 4)), LowRank(data(4, 1), data(1, 5))
    np.testing.assert_allclose(lift(jnp.matmul)(a, b), a.dense() @ b.dense(), rtol=1e-5, atol=1e-5)


def test_a_batched_product_runs_thin_layer_by_layer():
    leaf = LowRank(data(3, 4, 2), data(3, 2, 5))
    x = data(3, 2, 4)
    assert (3, 4, 5) not in operand_shapes(lift(jnp.matmul), x, leaf)
    np.testing.assert_allclose(lift(jnp.matmul)(x, leaf), x @ leaf.dense(), rtol=1e-5, atol=1e-5)


# One matrix under several axes


ATTENTION = {
    "queries": (LowRank(data(8, 3), data(3, 2, 4), 1, 2), "td,dhk->thk", (5, 8), 5 * (8 * 3 + 3 * 8)),
    "queries_first": (LowRank(data(8, 3), data(3, 2, 4), 1, 2), "td,dhk->hkt", (5, 8), 5 * (8 * 3 + 3 * 8)),
    "out": (LowRank(data(2, 4, 3), data(3, 8), 2, 1), "thk,hkd->td", (5, 2, 4), 5 * (8 * 3 + 3 * 8)),
    "used_backwards": (LowRank(data(8, 3), data(3, 2, 4), 1, 2), "thk,dhk->td", (5, 2, 4), 5 * (8 * 3 + 3 * 8)),
    "heads_first": (
        Reshaped(LowRank(data(8, 3), data(3, 8)), (8, 2, 4), (1, 0, 2)),
        *("td,hdk->thk", (5, 8), 5 * (8 * 3 + 3 * 8)),
    ),
    "kronecker": (
        Reshaped(Kronecker(data(1, 4, 2), data(1, 2, 4)), (8, 2, 4), (1, 0, 2)),
        *("td,hdk->thk", (5, 8), 5 * (4 * 2 * 4 + 4 * 4 * 2)),
    ),
    "experts": (Tucker2(data(3, 8, 2), data(3, 2, 2), data(3, 2, 6)), "bed,edf->bef", (5, 3, 8), 15 * (16 + 4 + 12)),
    "places_that_share": (LowRank(data(3, 8, 2), data(2, 6), 2), "bed,edf->bef", (5, 3, 8), 15 * (16 + 12)),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_a_matrix_under_several_axes_runs_thin(name):
    leaf, equation, shape, count = ATTENTION[name]
    x = data(*shape)
    product = lambda kernel, x: jnp.einsum(equation, x, kernel)
    np.testing.assert_allclose(lift(product)(leaf, x), product(leaf.dense(), x), rtol=1e-4, atol=1e-5)
    assert macs(lift(product), leaf, x) == count


def test_layers_anywhere_among_the_axes_run_thin_inside_a_scan():
    leaf = Reshaped(Tucker2(data(3, 8, 2), data(3, 2, 2), data(3, 2, 8)), (8, 8), (1, 0, 2))
    stack = lambda kernel, x: lax.scan(lambda x, k: (jnp.tanh(x @ k), None), x, jnp.moveaxis(kernel, 1, 0))[0]
    x = data(2, 8)
    np.testing.assert_allclose(lift(stack)(leaf, x), stack(leaf.dense(), x), rtol=1e-4, atol=1e-5)
    assert macs(lift(stack), leaf, x) == 3 * 2 * (16 + 4 + 16)


def test_rows_of_an_embedding_are_taken_from_its_factor():
    leaf, rows = LowRank(data(50, 3), data(3, 8)), jnp.int32([[4, 7], [0, 49]])
    tied = lambda table, rows: jnp.einsum("abd,vd->abv", table[rows], table)
    np.testing.assert_allclose(lift(tied)(leaf, rows), tied(leaf.dense(), rows), rtol=1e-4, atol=1e-5)
    assert macs(lift(tied), leaf, rows) == 4 * 3 * 8 + 4 * (8 * 3 + 3 * 50)


def test_a_weight_that_has_to_be_multiplied_out_is_named_in_a_warning():
    leaf = LowRank(data(8, 2, 3), data(3, 4), 2, 1, "svd[w]")
    product = lambda x, kernel: jnp.einsum("td,dhk->thk", x, kernel)
    told = r"LowRank of shape \(8, 2, 4\), made by 'svd\[w\]', is multiplied out .* dot_general with \(5, 8\)"
    with pytest.warns(Rebuilt, match=told):
        out = lift(product)(data(5, 8), leaf)
    np.testing.assert_allclose(out, product(data(5, 8), leaf.dense()), rtol=1e-4, atol=1e-5)


# Arguments


def test_static_arguments_stay_python_values():
    seen = []

    def apply(params, x, train, *, mode, rate, extra=None, names=("a",)):
        seen.append((train, mode, rate, extra, names))
        assert isinstance(x, jax.Array)
        return x @ params["w"] if train and mode == "up" else x

    leaf = LowRank(data(3, 1), data(1, 3))
    out = lift(apply)({"w": leaf}, data(2, 3), True, mode="up", rate=0.5, names=["params", "stats"])
    assert seen == [(True, "up", 0.5, None, ["params", "stats"])]
    np.testing.assert_allclose(out, data(2, 3) @ leaf.dense(), rtol=1e-5, atol=1e-5)


def test_train_flag_and_mutable_collections_of_linen():
    module, x = LinenResNet(), data(2, 8, 8, 3)
    variables = jax.jit(module.init)(jax.random.key(0), x)
    params = rewrite(variables["params"], ".*kernel", lambda path, leaf: factors(leaf))
    rest = {"batch_stats": variables["batch_stats"]}
    run = quick_jit(lambda params: lift(module.apply)({"params": params, **rest}, x, True, mutable=["batch_stats"]))
    assert_close(run(params), run(densify(params)), rtol=1e-4, atol=1e-5)
    assert not np.allclose(run(params)[1]["batch_stats"]["BatchNorm_0"]["mean"], 0)


def test_random_keys_and_integers_go_through():
    def apply(w, key, n):
        return jax.random.normal(key, (2, 3)) @ w * n.astype(jnp.float32)

    leaf = LowRank(data(3, 1), data(1, 3))
    args = (jax.random.key(3), np.int32(2))
    np.testing.assert_allclose(lift(apply)(leaf, *args), apply(leaf.dense(), *args), rtol=1e-5, atol=1e-5)


def test_without_a_compressed_leaf_apply_is_called_directly():
    def apply(params, flag):
        assert params is given and flag == "as is"
        return params

    given = {"w": data(2, 2)}
    assert lift(apply)(given, "as is") is given


def test_lift_keeps_the_name_and_docstring():
    assert lift(odd_square).__doc__ == odd_square.__doc__


def test_a_leaf_that_is_returned_comes_out_dense():
    leaf = LowRank(data(3, 1), data(1, 3))
    out = lift(lambda w, x: {"w": w, "t": w.T, "none": None, "x": x})(leaf, 1.5)
    np.testing.assert_allclose(out["w"], leaf.dense())
    np.testing.assert_allclose(out["t"], leaf.dense().T, rtol=1e-6)
    assert out["none"] is None and float(out["x"]) == 1.5


def test_gradient_reaches_what_apply_closes_over():
    leaf = LowRank(data(3, 1), data(1, 3))
    grad = jax.grad(lambda b: jnp.sum(lift(lambda w: w + b)(leaf)))(data(3, 3))
    np.testing.assert_array_equal(grad, np.ones((3, 3)))


def test_platform_dependent_code_runs_under_lift():
    leaf = LowRank(data(3, 1), data(1, 3))

    def apply(w, x):
        return lax.platform_dependent(x, w, cpu=lambda x, w: x @ w, default=lambda x, w: 0 * (x @ w))

    np.testing.assert_allclose(jax.jit(lift(apply))(leaf, data(2, 3)), data(2, 3) @ leaf.dense(), rtol=1e-5, atol=1e-5)


def test_macs_of_a_lifted_model_count_thin_factors():
    apply, x = net("linen_mlp").apply, net("linen_mlp").x
    tree = compressed("linen_mlp", "factors")
    assert macs(apply, tree, x) == 3 * (9 * 2 + 2 * 12 + 12 * 2 + 2 * 10 + 10 * 4)


# One recipe, two libraries


def test_the_same_recipe_on_linen_and_nnx():
    x = data(2, 28, 28, 1)
    linen = linen_net(LinenLeNet5(), x, "")
    recipe = chain(
        factorize.svd("(conv2|fc1)/kernel", 3),
        prune.magnitude("fc1/kernel/[uv]", 0.5),
        quantize.weights("fc1/kernel/[uv]", 4),
    )
    nnx = nnx_net(lambda rngs: NNXLeNet5(rngs, SMALL), x, "")
    assert jax.tree.structure(nnx.params) == jax.tree.structure(linen.params)
    assert not np.array_equal(nnx.params["fc1"]["kernel"], linen.params["fc1"]["kernel"])

    on_linen, on_nnx = recipe.init(linen.params), recipe.init(jax.tree.map(jnp.copy, linen.params))
    assert jax.tree.structure(on_linen) == jax.tree.structure(on_nnx)
    jax.tree.map(np.testing.assert_array_equal, on_linen, on_nnx)
    assert isinstance(on_nnx["fc1"]["kernel"].u, FakeQuantized)
    np.testing.assert_allclose(nnx.apply(on_nnx, x), linen.apply(on_linen, x), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(nnx.apply(pack(on_nnx), x), linen.apply(pack(on_linen), x), rtol=1e-6, atol=1e-6)


def test_the_loop_of_the_documentation_trains_what_is_left(promotion):
    (example,) = (test for test in doctest.DocTestFinder().find(lift, "lift") if test.examples)
    assert doctest.DocTestRunner(optionflags=doctest.FAIL_FAST).run(example).failed == 0
