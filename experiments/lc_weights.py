"""The weights of the LC toolkit's LeNet-300-100, read from its pickle without unpickling it."""

import gzip
import io
import pickletools
import zlib

import jax.numpy as jnp
import numpy as np

from jaxcompress.paths import Params


def load(raw: bytes, like: Params) -> Params:
    """Returns the weights in a gzipped pickle of PyTorch's ``state_dict``, as parameters ``fc1``, ``fc2``, … of an MLP.

    Such a pickle of that time holds every number of a tensor by itself, so the operations of the pickle machine are
    listed and none is carried out. `like` is a tree of the model's parameters, or of their shapes. Raises ValueError
    for what is no gzipped pickle, and for one that holds other tensors than the model has layers, or other numbers of
    values.
    """
    try:
        found = _numbers(gzip.decompress(raw))
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"the weights are no gzipped pickle: {error}") from error
    layers = sorted(name for name in like if name.startswith("fc"))
    expected = [f"output.compressible_{i}.{kind}" for i in range(len(layers)) for kind in ("weight", "bias")]
    if sorted(found) != sorted(expected):
        raise ValueError(f"the pickle holds {', '.join(found)}, not {', '.join(expected)}")
    params = {}
    for i, layer in enumerate(layers):
        inputs, outputs = like[layer]["kernel"].shape
        weight, bias = (found[f"output.compressible_{i}.{kind}"] for kind in ("weight", "bias"))
        if weight.size != inputs * outputs or bias.size != outputs:
            raise ValueError(f"{layer} has {weight.size} weights and {bias.size} biases, not {inputs} x {outputs}")
        params[layer] = {"kernel": jnp.asarray(weight.reshape(outputs, inputs).T), "bias": jnp.asarray(bias)}
    return params


def _numbers(pickled: bytes) -> dict[str, np.ndarray]:
    """Returns the numbers that follow the name of each tensor, as float32."""
    numbers: dict[str, list[float]] = {}
    name = ""
    for operation, argument, _ in pickletools.genops(io.BytesIO(pickled)):
        if operation.name == "BINUNICODE":
            name = str(argument)
        elif operation.name == "BINFLOAT":
            numbers.setdefault(name, []).append(argument)  # pyright: ignore (a float)
    return {name: np.asarray(values, np.float32) for name, values in numbers.items()}
