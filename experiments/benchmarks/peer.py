"""The same training step in PyTorch, run eagerly on the CPU."""

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def installed(package: str = "torch") -> bool:
    """Tells whether PyTorch, or another package, is there."""
    return importlib.util.find_spec(package) is not None


def training(params: Any, images: jax.Array, labels: jax.Array, *, rate: float, momentum: float) -> Callable[[], float]:
    """Returns ``step() -> loss`` of a LeNet from our initial `params`, on as many threads as there are cores."""
    import torch  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(os.cpu_count() or 1)
    net = _net(params)
    optimiser = torch.optim.SGD(net.parameters(), rate, momentum)
    loss_of = torch.nn.CrossEntropyLoss()
    x = torch.tensor(np.asarray(images).transpose(0, 3, 1, 2))
    y = torch.tensor(np.asarray(labels, np.int64))

    def step() -> float:
        optimiser.zero_grad()
        loss = loss_of(net(x), y)
        loss.backward()
        optimiser.step()
        return loss.item()

    return step


def _net(params: Any) -> Any:
    """Builds the LeNet that `params` belong to: convolutions ``conv…``, then dense layers ``fc…`` with ReLU between."""
    from torch import nn  # pyright: ignore[reportMissingImports]

    layers: list[nn.Module] = []
    channels = 0  # of the last convolution
    for name, leaves in sorted(params.items()):
        kernel = np.asarray(leaves["kernel"])
        if name.startswith("conv"):
            height, width, inputs, channels = kernel.shape
            conv = nn.Conv2d(inputs, channels, (height, width))
            layers += [_filled(conv, kernel.transpose(3, 2, 0, 1), leaves["bias"]), nn.MaxPool2d(2)]
            continue
        layers.append(nn.ReLU() if any(isinstance(layer, nn.Linear) for layer in layers) else nn.Flatten())
        if name == "fc1" and channels:
            kernel = _channels_first(kernel, channels)
        layers.append(_filled(nn.Linear(*kernel.shape), kernel.T, leaves["bias"]))
    return nn.Sequential(*layers)


def _channels_first(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Reorders the rows of a dense kernel from (places, channels) to PyTorch's (channels, places)."""
    inputs, outputs = kernel.shape
    return kernel.reshape(-1, channels, outputs).transpose(1, 0, 2).reshape(inputs, outputs)


def _filled(layer: Any, weight: np.ndarray, bias: jax.Array) -> Any:
    import torch  # pyright: ignore[reportMissingImports]

    state = {"weight": np.ascontiguousarray(weight), "bias": np.array(bias)}
    layer.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    return layer
