"""Width of MobileNet."""

import jax
import pytest

from experiments.models import MobileNetV1
from tests.experiments.models import draws


@pytest.mark.parametrize(("alpha", "stem", "last"), [(0.25, 8, 256), (0.5, 16, 512), (1.0, 32, 1024), (0.01, 1, 10)])
def test_alpha_scales_every_width(alpha, stem, last):
    params = draws.shapes(MobileNetV1(alpha=alpha), (32, 32, 3))["params"]
    assert params["stem"]["kernel"].shape == (3, 3, 3, stem)
    assert params["block13"]["depthwise"]["kernel"].shape == (3, 3, 1, last)
    assert params["fc"]["kernel"].shape == (last, 2)


def test_full_mobilenet_has_the_size_of_the_paper():
    params = draws.shapes(MobileNetV1(1000, 1.0), (224, 224, 3))["params"]
    # Howard et al. 2017, table 4: 4.2 million.
    assert round(sum(a.size for a in jax.tree.leaves(params)) / 1e6, 1) == 4.2


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan")])
def test_width_must_be_positive(alpha):
    with pytest.raises(ValueError, match=f"alpha={alpha}"):
        MobileNetV1(alpha=alpha)
