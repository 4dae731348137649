"""Checks TFLite files written from integers: every tensor and operator read back, and that LiteRT runs them."""

import numpy as np
import pytest

from jaxcompress.export import writer
from jaxcompress.export.litert import Model, operators
from jaxcompress.interpreters.graph import INPUT, Graph, Node, Window
from jaxcompress.interpreters.integers import Integers, Layer, integers
from tests.nets import grid, layer_model, op_model

schema = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="pip install 'jaxcompress[tflite]'")

VALID, EXPLICIT = ((0, 0), (0, 0)), ((1, 2), (0, 1))
ENUMS = {"operator": schema.BuiltinOperator, "type": schema.TensorType, "padding": schema.Padding}


def name_of(kind, value):
    (name,) = (name for name, number in vars(ENUMS[kind]).items() if number == value and not name.startswith("_"))
    return name


def parsed(model):
    """Returns the file's one graph and its operators' names in order."""
    content = schema.ModelT.InitFromObj(schema.Model.GetRootAs(writer.to_bytes(model), 0))
    (graph,) = content.subgraphs
    codes = [name_of("operator", code.builtinCode) for code in content.operatorCodes]
    return content, graph, [codes[op.opcodeIndex] for op in graph.operators]


def tensor_of(content, graph, name):
    (tensor,) = [t for t in graph.tensors if t.name == name.encode()]
    kind = np.dtype(name_of("type", tensor.type).lower())
    data = content.buffers[tensor.buffer].data
    return tensor, None if data is None else np.asarray(data, np.uint8).view(kind).reshape(tensor.shape)


def random_layer(shape, seed=0, by_output=True):
    draw = np.random.default_rng(seed)
    scale = draw.uniform(0.01, 0.1, shape[-1] if by_output else 1) * np.ones(shape[-1])
    kernel, bias = draw.integers(-127, 128, shape), draw.integers(-9999, 9999, shape[-1])
    return Layer(kernel.astype(np.int8), scale.astype(np.float32), bias.astype(np.int32))


def convolution(padding=VALID, groups=1, outputs=4, strides=(1, 1), dilation=(1, 1), activation=None):
    window = Window((3, 2), strides, padding, dilation, groups)
    layer = random_layer((3, 2, 4 // groups, outputs))
    return layer_model(layer, grid(0.1, -3), grid(2.5, 7), (1, 8, 7, 4), window, activation)


def net():
    """Every operation that can be written, once or more."""
    square, half = (1, 4, 4, 4), (1, 2, 2, 4)
    nodes = (
        Node(
            "conv", "convolution", (INPUT,), square, window=Window((3, 3), (2, 2), ((0, 1), (0, 1))), activation="relu"
        ),
        Node("depthwise", "convolution", ("conv",), square, window=Window((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 4)),
        Node("add", "add", ("conv", "depthwise"), square, activation="relu6"),
        Node("turned", "transpose", ("add",), square, axes=(0, 2, 1, 3)),
        Node("padded", "pad", ("turned",), (1, 5, 4, 4), extents=((0, 0), (1, 0), (0, 0), (0, 0))),
        Node("cut", "slice", ("padded",), square, extents=((0, 1, 1), (1, 5, 1), (0, 4, 1), (0, 4, 1))),
        Node("both", "concatenate", ("cut", "add"), (1, 4, 4, 8), axes=(3,)),
        Node("half", "convolution", ("both",), square, window=Window((1, 1), (1, 1), VALID), activation="relu6"),
        Node("max", "max_pool", ("half",), half, window=Window((2, 2), (2, 2), VALID)),
        Node("average", "average_pool", ("max",), half, window=Window((2, 2), (1, 1), ((0, 1), (0, 1)))),
        Node("mean", "mean", ("average",), (1, 4), axes=(1, 2)),
        Node("flat", "reshape", ("mean",), (1, 4)),
        Node("fc", "dense", ("flat",), (1, 3), activation="relu"),
    )
    shared = {
        "turned": "add",
        "padded": "add",
        "cut": "add",
        "both": "add",
        "max": "half",
        "average": "half",
        "flat": "mean",
    }
    own = [name for name in (INPUT, *(n.name for n in nodes)) if name not in shared]
    grids = {name: grid(0.02 + 0.1 * i, i - 5) for i, name in enumerate(own)}
    grids |= {name: grids[first] for name, first in shared.items()}
    shapes = {"conv": (3, 3, 3, 4), "depthwise": (3, 3, 1, 4), "half": (1, 1, 8, 4), "fc": (4, 3)}
    layers = {name: random_layer(shape, i) for i, (name, shape) in enumerate(shapes.items())}
    return Integers(Graph(nodes, (1, 8, 8, 3), "fc"), grids, layers)


@pytest.fixture(scope="module")
def whole():
    model = net()
    return model, *parsed(model)


def test_operators_stand_in_order_as_the_graph_says(whole):
    model, _, graph, names = whole
    assert names == [
        *("CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "TRANSPOSE", "PAD", "STRIDED_SLICE", "CONCATENATION", "CONV_2D"),
        *("MAX_POOL_2D", "AVERAGE_POOL_2D", "MEAN", "RESHAPE", "FULLY_CONNECTED"),
    ]
    by_number = [t.name.decode() for t in graph.tensors]
    for node, op in zip(model.graph.nodes, graph.operators, strict=True):
        assert [by_number[i] for i in op.outputs] == [node.name]
        assert [by_number[i] for i in op.inputs][: len(node.inputs)] == list(node.inputs)
    assert [by_number[i] for i in (*graph.inputs, *graph.outputs)] == [INPUT, "fc"]
    activations = [getattr(op.builtinOptions, "fusedActivationFunction", 0) for op in graph.operators]
    relu, relu6 = schema.ActivationFunctionType.RELU, schema.ActivationFunctionType.RELU6
    assert activations == [relu, 0, relu6, 0, 0, 0, 0, relu6, 0, 0, 0, 0, relu]


def test_activations_hold_their_grid_and_shape(whole):
    model, content, graph, _ = whole
    for name, of in model.grids.items():
        tensor, values = tensor_of(content, graph, name)
        shape = model.graph.input_shape if name == INPUT else model.graph.node(name).shape
        assert tuple(tensor.shape) == shape and name_of("type", tensor.type) == "INT8" and values is None
        assert np.float32(tensor.quantization.scale) == of.scale and tensor.quantization.zeroPoint == of.zero_point


@pytest.mark.parametrize(
    ("name", "order", "axis"), [("conv", (3, 0, 1, 2), 0), ("depthwise", (2, 0, 1, 3), 3), ("fc", (1, 0), 0)]
)
def test_kernels_and_biases_hold_the_layers_codes_and_scales(whole, name, order, axis):
    model, content, graph, _ = whole
    layer, node = model.layers[name], model.graph.node(name)
    tensor, codes = tensor_of(content, graph, f"{name}/kernel")
    np.testing.assert_array_equal(codes, layer.kernel.transpose(order))
    np.testing.assert_array_equal(np.float32(tensor.quantization.scale), layer.scale)
    assert not np.any(tensor.quantization.zeroPoint) and tensor.quantization.quantizedDimension == axis
    tensor, bias = tensor_of(content, graph, f"{name}/bias")
    np.testing.assert_array_equal(bias, layer.bias)
    expected = model.grids[node.inputs[0]].scale * layer.scale
    np.testing.assert_array_equal(np.float32(tensor.quantization.scale), expected)


def test_one_scale_for_all_outputs_is_stored_once():
    layer = random_layer((5, 6), by_output=False)
    content, graph, _ = parsed(layer_model(layer, grid(0.1), grid(1.0), (1, 5)))
    for name in ("layer/kernel", "layer/bias"):
        tensor, _ = tensor_of(content, graph, name)
        assert len(tensor.quantization.scale) == len(tensor.quantization.zeroPoint) == 1


@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 2)])
def test_padding_of_convolutions_by_hand(strides, dilation):
    # 8 by 7, kernel 3 by 2: what SAME pads, the odd one last.
    same = {
        ((1, 1), (1, 1)): ((1, 1), (0, 1)),
        ((2, 3), (1, 1)): ((0, 1), (0, 1)),
        ((1, 1), (2, 2)): ((2, 2), (1, 1)),
        ((2, 3), (2, 2)): ((1, 2), (1, 1)),
    }[strides, dilation]
    for padding, expected in ((same, ["CONV_2D"]), (VALID, ["CONV_2D"]), (EXPLICIT, ["PAD", "CONV_2D"])):
        content, graph, names = parsed(convolution(padding, strides=strides, dilation=dilation))
        options = graph.operators[-1].builtinOptions
        assert names == expected
        assert name_of("padding", options.padding) == ("SAME" if padding == same else "VALID")
        assert (options.strideH, options.strideW) == strides
        assert (options.dilationHFactor, options.dilationWFactor) == dilation
        if padding == EXPLICIT:
            tensor, edges = tensor_of(content, graph, "layer/padding")
            assert edges.tolist() == [[0, 0], [1, 2], [0, 1], [0, 0]]
            padded, _ = tensor_of(content, graph, "layer/padded")
            assert list(padded.shape) == [1, 11, 8, 4]
            assert np.float32(padded.quantization.scale) == np.float32(0.1) and padded.quantization.zeroPoint == -3


@pytest.mark.parametrize(("groups", "outputs", "kind", "shape"), [
    (1, 4, "CONV_2D", [4, 3, 2, 4]),
    (2, 6, "CONV_2D", [6, 3, 2, 2]),
    (4, 4, "DEPTHWISE_CONV_2D", [1, 3, 2, 4]),
    (4, 8, "DEPTHWISE_CONV_2D", [1, 3, 2, 8]),
])  # fmt: skip
def test_groups_by_hand(groups, outputs, kind, shape):
    content, graph, names = parsed(convolution(groups=groups, outputs=outputs))
    assert names == [kind] and list(tensor_of(content, graph, "layer/kernel")[0].shape) == shape
    if kind == "DEPTHWISE_CONV_2D":
        assert graph.operators[0].builtinOptions.depthMultiplier == outputs // 4


@pytest.mark.parametrize("kept", [True, False])
def test_the_mean_holds_its_axes(kept):
    out = (1, 1, 1, 3) if kept else (1, 3)
    content, graph, _ = parsed(op_model("mean", (1, 4, 5, 3), grid(0.1), axes=(1, 2), out=out))
    assert graph.operators[0].builtinOptions.keepDims == kept
    assert tensor_of(content, graph, "op/axes")[1].tolist() == [1, 2]


def test_dense_on_many_axes_keeps_them():
    for shape, keeps in (((1, 5), False), ((1, 3, 5), True)):
        _, graph, _ = parsed(layer_model(random_layer((5, 6)), grid(0.1), grid(1.0), shape))
        assert graph.operators[0].builtinOptions.keepNumDims == keeps


def test_bytes_are_the_same_twice_and_name_the_format():
    first = writer.to_bytes(net())
    assert first == writer.to_bytes(net()) and first[4:8] == b"TFL3"


@pytest.mark.parametrize("kernels", ["default", "reference"])
@pytest.mark.parametrize("bits", [8, 16])
def test_litert_runs_the_file(whole, kernels, bits):
    model = whole[0] if bits == 8 else wide(whole[0])
    codes = np.random.default_rng(0).integers(-128, 128, (3, 8, 8, 3)).astype(f"int{bits}")
    found = Model(writer.to_bytes(model), kernels=kernels).batch(codes)
    expected = integers(model, "xnnpack" if kernels == "default" else "reference")(codes)
    np.testing.assert_array_equal(found, expected)


def test_litert_lists_the_same_operators(whole):
    assert [op.name for op in operators(writer.to_bytes(whole[0]))] == whole[3]


@pytest.mark.parametrize("kind", ["relu", "relu6"])
def test_an_operation_without_integers_is_refused(kind):
    with pytest.raises(ValueError, match=f"op is a '{kind}', which cannot be written as integers"):
        writer.to_bytes(op_model(kind, (1, 4), grid(1.0)))


def test_a_softmax_has_no_arithmetic_in_16_bits():
    model = op_model("softmax", (1, 4), grid(1.0), grid(1 / 256, -128))
    content, graph, names = parsed(model)
    assert names == ["SOFTMAX"] and graph.operators[0].builtinOptions.beta == 1
    with pytest.raises(ValueError, match="op is a 'softmax', which has no arithmetic in int16"):
        writer.to_bytes(wide(model))


def wide(model):
    """Returns the model with activations of 16 bits."""
    grids = {name: of._replace(zero_point=0, bits=16) for name, of in model.grids.items()}
    layers = {name: layer._replace(bias=layer.bias.astype(np.int64)) for name, layer in model.layers.items()}
    return model._replace(grids=grids, layers=layers)


def test_activations_of_16_bits_stand_beside_biases_of_64():
    model = wide(net())
    content, graph, names = parsed(model)
    assert names == parsed(net())[2]
    kinds = {t.name.decode(): name_of("type", t.type) for t in graph.tensors}
    assert {kinds[name] for name in model.grids} == {"INT16"}
    for name, layer in model.layers.items():
        bias, values = tensor_of(content, graph, f"{name}/bias")
        assert (kinds[f"{name}/kernel"], kinds[f"{name}/bias"]) == ("INT8", "INT64")
        np.testing.assert_array_equal(values, layer.bias)
    add = graph.operators[names.index("ADD")].builtinOptions
    assert not add.potScaleInt16
    for name in ("CONV_2D", "FULLY_CONNECTED"):
        assert graph.operators[names.index(name)].builtinOptions.quantizedBiasType == schema.TensorType.INT64


def test_int4_of_depthwise_layers_is_refused_beside_16_bits():
    layer = random_layer((3, 3, 1, 4))._replace(bits=4)
    layer = layer._replace(kernel=layer.kernel // 20)
    window = Window((3, 3), (1, 1), VALID, (1, 1), 4)
    model = layer_model(layer, grid(1.0), grid(1.0), (1, 6, 6, 4), window)
    assert parsed(model)[2] == ["DEPTHWISE_CONV_2D"]
    with pytest.raises(ValueError, match="layer is depthwise in int4 beside int16"):
        writer.to_bytes(wide(model))


def test_grids_that_no_kernel_takes_are_refused():
    model, of = op_model("reshape", (1, 4), grid(1.0, 5), out=(1, 4)), grid(1.0, 5)
    for grids, words in (
        ({"input": of._replace(bits=4), "op": of._replace(bits=4)}, r"activations have \[4\] bits"),
        ({"input": of, "op": of._replace(bits=16, zero_point=0)}, r"activations have \[8, 16\] bits"),
        (dict.fromkeys(("input", "op"), of._replace(bits=16)), "input has the zero point 5"),
    ):
        with pytest.raises(ValueError, match=words):
            writer.to_bytes(model._replace(grids=grids))


@pytest.mark.parametrize("model", [net(), wide(net())], ids=["int8", "int16"])
def test_reals_pass_through_one_operation_at_each_end(model):
    content = schema.ModelT.InitFromObj(schema.Model.GetRootAs(writer.to_bytes(model, "float32"), 0))
    (graph,) = content.subgraphs
    names = [name_of("operator", content.operatorCodes[op.opcodeIndex].builtinCode) for op in graph.operators]
    assert names == ["QUANTIZE", *parsed(model)[2], "DEQUANTIZE"]
    by_number = [t.name.decode() for t in graph.tensors]
    first, last = graph.operators[0], graph.operators[-1]
    assert [by_number[i] for i in (*graph.inputs, *first.inputs, *first.outputs)] == [*["input/float32"] * 2, "input"]
    assert [by_number[i] for i in (*last.inputs, *last.outputs, *graph.outputs)] == ["fc", *["fc/float32"] * 2]
    for name, shape in (("input/float32", (1, 8, 8, 3)), ("fc/float32", (1, 3))):
        tensor, _ = tensor_of(content, graph, name)
        assert name_of("type", tensor.type) == "FLOAT32" and tuple(tensor.shape) == shape
        assert tensor.quantization is None


@pytest.mark.parametrize("kind", ["max_pool", "average_pool"])
def test_a_pooling_with_padding_of_its_own_is_refused(kind):
    model = op_model(kind, (1, 6, 6, 2), grid(1.0), window=Window((2, 2), (2, 2), ((1, 1), (1, 1))))
    with pytest.raises(ValueError, match=r"op pads by \(\(1, 1\), \(1, 1\)\); a pooling in integers pads as SAME"):
        writer.to_bytes(model)
