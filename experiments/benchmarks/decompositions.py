"""Decompositions beside tensorly's, on its numpy backend and on its jax backend."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.timing import Effort, Row, race, row
from jaxcompress.numerics import cp, factors, tucker
from jaxcompress.numerics.tensor_train import tensor_train

OURS, NUMPY, JAX = "ours", "tensorly, numpy", "tensorly, jax"
SWEEPS = 20  # of alternating least squares


class Problem(NamedTuple):
    """An array, our decomposition of it and tensorly's of the backend's array, and the arrays these stand for."""

    subject: str
    array: np.ndarray
    ours: Callable[[], Any]
    whole: Callable[[Any], Any]
    theirs: Callable[[Any], Any]
    their_whole: Callable[[Any], Any]


def decompositions(effort: Effort) -> list[Row]:
    """Races each decomposition with tensorly's of the same rank and as many sweeps.

    `difference` is by how much more of the array ours misses, as a share of its norm; below zero it misses less.
    """
    problems = [make(shape, effort.rank) for shape in effort.matrices for make in (_svd, _randomized)]
    problems += [make(effort.kernel, effort.rank) for make in (_tucker2, _tucker, _cp, _train)]
    problems += [_train_matrix(shape, effort.rank) for shape in effort.matrices]
    return [row for problem in problems for row in _race(problem, effort)]


def _race(problem: Problem, effort: Effort) -> list[Row]:
    calls = {OURS: problem.ours} | {way: partial(_theirs, problem, way) for way in (NUMPY, JAX)}
    times = race(calls, effort.decompositions)
    missed = {OURS: _missed(problem.array, problem.whole(calls[OURS]()))}
    for way in (NUMPY, JAX):
        with _backend(way):
            missed[way] = _missed(problem.array, problem.their_whole(_theirs(problem, way)))
    return [row(problem.subject, times, OURS, way, missed[OURS] - missed[way]) for way in (NUMPY, JAX)]


def _theirs(problem: Problem, way: str) -> Any:
    import tensorly  # pyright: ignore[reportMissingImports]

    with _backend(way):
        return jax.block_until_ready(problem.theirs(tensorly.tensor(problem.array)))


@contextmanager
def _backend(way: str) -> Iterator[None]:
    """Sets tensorly's backend; its jax one switches all of JAX to float64, which is undone."""
    import tensorly  # pyright: ignore[reportMissingImports]

    backend: Any = tensorly.backend  # whose attributes are made when it is imported
    with backend.backend_context("jax" if way == JAX else "numpy", local_threadsafe=False):
        try:
            yield
        finally:
            jax.config.update("jax_enable_x64", False)


def _missed(array: np.ndarray, whole: Any) -> float:
    found = np.asarray(whole, np.float64)
    return float(np.linalg.norm(found.reshape(array.shape) - array) / np.linalg.norm(array))


def _array(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _svd(shape: tuple[int, int], rank: int) -> Problem:
    from tensorly.tenalg.svd import truncated_svd  # pyright: ignore[reportMissingImports]

    array = _array(*shape)
    ours = partial(jax.jit(partial(factors.truncated_svd, rank=rank)), jnp.asarray(array))
    theirs = partial(truncated_svd, n_eigenvecs=rank)
    return Problem(f"SVD of {_size(shape)}", array, ours, lambda f: f[0] @ f[1], theirs, _product)


def _randomized(shape: tuple[int, int], rank: int) -> Problem:
    from tensorly.tenalg.svd import randomized_svd  # pyright: ignore[reportMissingImports]

    array = _array(*shape)
    compiled = jax.jit(partial(factors.randomized_svd, rank=rank, iterations=2))
    ours = partial(compiled, jnp.asarray(array), key=jax.random.key(0))
    theirs = partial(randomized_svd, n_eigenvecs=rank, n_oversamples=10, n_iter=2, random_state=0)
    return Problem(f"randomized SVD of {_size(shape)}", array, ours, lambda f: f[0] @ f[1], theirs, _product)


def _product(found: Any) -> np.ndarray:
    u, s, v = map(np.asarray, found)
    return u * s @ v


def _tucker2(shape: tuple[int, ...], rank: int) -> Problem:
    from tensorly.decomposition import partial_tucker  # pyright: ignore[reportMissingImports]
    from tensorly.tenalg import multi_mode_dot  # pyright: ignore

    array = _array(*shape)
    ours = partial(tucker.tucker, jnp.asarray(array), (2, 3), (rank, rank), 2)
    whole = lambda found: jnp.einsum("hwab,ia,ob->hwio", found[0], *found[1])
    theirs = partial(partial_tucker, rank=[rank, rank], modes=[2, 3], n_iter_max=2)
    rebuilt = lambda found: multi_mode_dot(*found[0], modes=[2, 3])
    return Problem(f"Tucker-2 of {_size(shape)}", array, ours, whole, theirs, rebuilt)


def _tucker(shape: tuple[int, ...], rank: int) -> Problem:
    import tensorly  # pyright: ignore[reportMissingImports]
    from tensorly.decomposition import tucker as their_tucker  # pyright: ignore[reportMissingImports]

    array = _array(*shape)
    ranks = tuple(min(rank, size) for size in shape)
    ours = partial(tucker.tucker, jnp.asarray(array), tuple(range(len(shape))), ranks, 2)
    whole = lambda found: jnp.einsum("abcd,ha,wb,ic,od->hwio", found[0], *found[1])
    theirs = partial(their_tucker, rank=list(ranks), n_iter_max=2, tol=0)
    return Problem(f"Tucker of {_size(shape)}", array, ours, whole, theirs, tensorly.tucker_to_tensor)


def _cp(shape: tuple[int, ...], rank: int) -> Problem:
    import tensorly  # pyright: ignore[reportMissingImports]
    from tensorly.decomposition import parafac  # pyright: ignore[reportMissingImports]

    array = _array(*shape)
    ours = partial(cp.cp, jnp.asarray(array), rank, jax.random.key(0), SWEEPS)
    theirs = partial(parafac, rank=rank, n_iter_max=SWEEPS, init="random", tol=0, random_state=0)
    whole = lambda fit: cp.composed(fit.factors)
    return Problem(f"CP of {_size(shape)}", array, ours, whole, theirs, tensorly.cp_to_tensor)


def _train(shape: tuple[int, ...], rank: int) -> Problem:
    import tensorly  # pyright: ignore[reportMissingImports]
    from tensorly.decomposition import tensor_train as their_train  # pyright: ignore[reportMissingImports]

    array = _array(shape[0] * shape[1], *shape[2:])
    compiled = jax.jit(lambda tensor: tensor_train(tensor, lambda matrix, _: min(rank, *matrix.shape)))
    theirs = partial(their_train, rank=[1, min(rank, len(array)), rank, 1])
    whole = lambda cores: jnp.einsum("aib,bjc,ckd->ijk", *cores)
    return Problem(
        f"tensor train of {_size(shape)}",
        array,
        partial(compiled, jnp.asarray(array)),
        whole,
        theirs,
        tensorly.tt_to_tensor,
    )


def _train_matrix(shape: tuple[int, int], rank: int) -> Problem:
    from tensorly.decomposition import tensor_train_matrix  # pyright: ignore[reportMissingImports]
    from tensorly.tt_matrix import tt_matrix_to_tensor  # pyright: ignore

    rows, columns = (_modes(size) for size in shape)
    array = _array(*shape).reshape(*rows, *columns)
    pairs = [i * o for i, o in zip(rows, columns, strict=True)]
    number = min(rank, *pairs)
    compiled = jax.jit(lambda x: tensor_train(x.transpose(0, 2, 1, 3).reshape(pairs), lambda *_: number))
    cores = lambda found: [
        core.reshape(core.shape[0], i, o, -1) for core, i, o in zip(found, rows, columns, strict=True)
    ]
    return Problem(
        f"TT-matrix of {_size(shape)}",
        array,
        partial(compiled, jnp.asarray(array)),
        lambda found: jnp.einsum("aijb,bklc->ikjl", *cores(found)),
        partial(tensor_train_matrix, rank=[1, number, 1]),
        tt_matrix_to_tensor,
    )


def _modes(size: int) -> tuple[int, int]:
    """Returns the two numbers nearest to each other that multiply to a size, the smaller first."""
    smaller = next(n for n in range(int(size**0.5), 0, -1) if size % n == 0)
    return smaller, size // smaller
