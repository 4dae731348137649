"""Holds factorization and distillation to scipy."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.special

from jaxcompress.arrays import dense
from jaxcompress.distill import kd
from jaxcompress.factorize import svd


def gaussian(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(12, 8), (8, 12), (3, 3, 4, 10)])
@pytest.mark.parametrize("rank", [1, 3, 8])
def test_a_factorized_kernel_is_the_truncation_of_scipys_decomposition(shape, rank):
    kernel = gaussian(*shape)
    u, s, vt = scipy.linalg.svd(kernel.astype(np.float64).reshape(-1, shape[-1]), full_matrices=False)
    expected = (u[:, :rank] * s[:rank] @ vt[:rank]).reshape(shape)
    leaf = svd("w", rank=rank, always=True).init({"w": jnp.asarray(kernel)})["w"]
    np.testing.assert_allclose(dense(leaf), expected, atol=1e-5)


@pytest.mark.parametrize("energy", [0.2, 0.5, 0.9, 0.99])
def test_the_rank_of_an_energy_is_read_off_scipys_singular_values(energy):
    kernel = gaussian(20, 15)
    squared = np.square(scipy.linalg.svdvals(kernel.astype(np.float64)))
    expected = int(np.searchsorted(np.cumsum(squared) / squared.sum(), energy)) + 1
    assert svd("w", energy=energy, always=True).init({"w": jnp.asarray(kernel)})["w"].rank == expected


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("shape", [(10,), (6, 10), (2, 3, 5)])
def test_distillation_is_the_relative_entropy_of_softened_outputs(shape, temperature):
    student, teacher = 3 * gaussian(*shape), 3 * gaussian(*shape, seed=1)
    p, q = (scipy.special.softmax(x.astype(np.float64) / temperature, axis=-1) for x in (teacher, student))
    expected = temperature**2 * scipy.special.rel_entr(p, q).sum(-1)
    np.testing.assert_allclose(kd(jnp.asarray(student), jnp.asarray(teacher), temperature), expected, rtol=1e-4)
