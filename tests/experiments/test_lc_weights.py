"""The numbers of a pickled state_dict are read in order, and nothing of the pickle is carried out."""

import gzip
import pickle

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import lc_weights

LIKE = {
    "fc1": {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)},
    "fc2": {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)},
}
NUMBERS = {
    "output.compressible_0.weight": [1.5, 2.5, 3.5, 4.5, 5.5, 6.5],
    "output.compressible_0.bias": [0.25, 0.75],
    "output.compressible_1.weight": [1.0, 2.0, 3.0, 4.0],
    "output.compressible_1.bias": [-1.0, -2.0],
}


class Exploding:
    """Stands for code that a pickle would run."""

    def __reduce__(self):
        return (pytest.fail, ("the pickle was carried out",))


def pickled(numbers):
    return gzip.compress(pickle.dumps([(Exploding(), name, values) for name, values in numbers.items()], protocol=3))


def test_kernels_are_transposed_and_no_code_is_run():
    params = lc_weights.load(pickled(NUMBERS), LIKE)
    np.testing.assert_array_equal(params["fc1"]["kernel"], [[1.5, 4.5], [2.5, 5.5], [3.5, 6.5]])
    np.testing.assert_array_equal(params["fc2"]["bias"], [-1.0, -2.0])
    assert params["fc1"]["kernel"].dtype == jnp.float32


def test_other_tensors_and_sizes_are_refused():
    less = {name: values for name, values in NUMBERS.items() if "1.bias" not in name}
    with pytest.raises(ValueError, match="the pickle holds .*, not .*compressible_1.bias"):
        lc_weights.load(pickled(less), LIKE)
    other = NUMBERS | {"output.compressible_1.weight": [1.0, 2.0]}
    with pytest.raises(ValueError, match="fc2 has 2 weights and 2 biases, not 2 x 2"):
        lc_weights.load(pickled(other), LIKE)


@pytest.mark.parametrize(
    "raw",
    [b"", b"text", pickled(NUMBERS)[:-9], pickled(NUMBERS)[:30] + b"\xff" * 40, gzip.compress(b"X")],
    ids=["empty", "text", "cut", "damaged", "no pickle"],
)
def test_what_is_no_gzipped_pickle_is_refused(raw):
    with pytest.raises(ValueError):
        lc_weights.load(raw, LIKE)
