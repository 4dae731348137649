"""What is trained, on what, and from where it starts."""

from dataclasses import dataclass
from typing import Literal, Union


@dataclass(frozen=True)
class Data:
    """Names a data set; `validation` training examples are held out, `limit` keeps only so many of each split.

    `labels` keeps only so many of the training examples, the first, and all others.
    """

    name: Literal["digits", "mnist", "fashion-mnist", "cifar-10", "cifar-100"] = "mnist"
    validation: int = 5000
    limit: int | None = None
    labels: int | None = None


@dataclass(frozen=True)
class Pixels:
    """Standardizes what a model is given: pixels in [0, 1] less `mean`, over `std`."""

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"std={self.std} of pixels must be above 0")


@dataclass(frozen=True)
class MLP:
    """A multilayer perceptron; LeNet-300-100 by default.

    Of the units `dropout` are dropped in training, of the pixels `input_dropout`. `norm` puts batch normalization after
    every layer. `initial` kernels are normal with a variance of one over their inputs, or ``uniform`` on [-1, 1), the
    range of BinaryConnect. With `center` every pixel is given less its mean over the training images. Images get a
    margin of `pad` pixels of zero, which `center` does not go with.
    """

    hidden: tuple[int, ...] = (300, 100)
    dropout: float = 0.0
    norm: bool = False
    initial: Literal["lecun", "uniform"] = "lecun"
    pixels: Pixels = Pixels()
    activation: Literal["relu", "tanh"] = "relu"
    center: bool = False
    pad: int = 0
    input_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.pad < 0 or (self.pad and self.center):
            raise ValueError(f"pad={self.pad} of a multilayer perceptron is at least 0, and 0 with center")


@dataclass(frozen=True)
class LeNet5:
    """LeNet-5 as in Caffe; with `relu` a ReLU follows the convolutions too, which in Caffe are linear.

    Other numbers of `filters` and `hidden` units make it wider or narrower.
    """

    dropout: float = 0.0
    relu: bool = False
    pixels: Pixels = Pixels()
    filters: tuple[int, int] = (20, 50)
    hidden: int = 500

    def __post_init__(self) -> None:
        if min(*self.filters, self.hidden) < 1:
            raise ValueError(
                f"LeNet-5: filters={list(self.filters)}, hidden={self.hidden}; there is at least one of each"
            )


@dataclass(frozen=True)
class LeNet5BN:
    """The wider LeNet-5 with batch normalization of Li & Liu (2016)."""


@dataclass(frozen=True)
class ResNet8:
    """MLPerf Tiny's ResNet-8 with its batch normalization folded into the convolutions."""

    width: int = 16


@dataclass(frozen=True)
class ResNet:
    """A residual network for small images of He et al. (2016), with batch normalization (`experiments.models.ResNet`).

    Its `stem` is as wide as the first stack if it is not said to have another width.
    """

    depth: int = 20
    width: int = 16
    stem: int | None = None
    shortcut: Literal["identity", "normalized"] = "identity"
    pixels: Pixels = Pixels()


@dataclass(frozen=True)
class Pretrained:
    """Names a published file to start from, and the largest value that its model takes where ours takes 1."""

    file: Literal["mlperf-tiny/pretrainedResnet.tflite", "lc-lenet300/lenet300_classic.pklz"]
    input_range: float = 1.0


Model = Union[MLP, LeNet5, LeNet5BN, ResNet8, ResNet]  # noqa: UP007 (cattrs reads the members of a Union)
