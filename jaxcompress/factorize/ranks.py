"""Ranks: rules that choose the rank of a matrix from its values."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcompress.numerics.factors import energy_rank
from jaxcompress.numerics.precision import widened
from jaxcompress.numerics.vbmf import vbmf_rank

Rule = Callable[[Array], int]  # a matrix (rows, columns), float -> its rank, from 0 to the full one
Rank = int | Rule | Mapping[str, int]


def energy(fraction: float) -> Rule:
    """Returns the rule that keeps at least `fraction`, in (0, 1], of the squared singular values.

    Raises ValueError for a fraction outside of that.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"energy {fraction!r} is not a fraction in (0, 1]")
    return lambda matrix: energy_rank(matrix, fraction)


def ratio(fraction: float) -> Rule:
    """Returns the rule of the largest rank at which two factors have at most `fraction` of the weights of the matrix.

    Raises ValueError for a fraction outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"ratio {fraction!r} is not a fraction in (0, 1]")

    def rank(matrix: Array) -> int:
        return int(fraction * matrix.size / sum(matrix.shape))

    return rank


def vbmf(variance: float | None = None) -> Rule:
    """Returns the rule of variational Bayes: the rank at which a matrix is seen to be low-rank plus noise.

    The analytic solution of empirical variational Bayesian matrix factorization (Nakajima et al. 2013, JMLR 14), in
    which the `variance` of the noise is estimated unless given. Kim et al. (2016, arXiv:1511.06530) choose the ranks of
    Tucker-2 by it. It finds rank 0 in what looks like noise alone.
    """
    return lambda matrix: vbmf_rank(matrix, variance)


def penalized(alpha: float, strength: float) -> Rule:
    """Returns the rule that weighs the weights stored against the error: the rank step of learned ranks.

    ``min over r of  alpha * r * (rows + columns) + strength / 2 * (sum of squared singular values beyond r)``
    (Idelbayev & Carreira-Perpiñán 2020, CVPR, eq. 5, with the cost of storage). As the C step of `jaxcompress.lc` with
    its `strength`, it learns the ranks. Raises ValueError for numbers below 0.
    """
    if not (alpha >= 0 and strength >= 0):
        raise ValueError(f"alpha={alpha} and strength={strength} of a penalized rank must not be negative")

    def rank(matrix: Array) -> int:
        squared = np.square(np.asarray(jnp.linalg.svd(widened(matrix), compute_uv=False), np.float64))
        # One rank more pays while its singular value saves more than its two vectors cost; values fall with the rank.
        return int(np.sum(strength / 2 * squared > alpha * sum(matrix.shape)))

    return rank


def given(form: str, pattern: str, rank: Rank | None, fraction: float | None, round_to: int = 1) -> Rank:
    """Returns the rank that a transform was given as `rank`, or as the energy `fraction`, checked as far as may be.

    Raises ValueError for both or neither, a number below 1, a fraction outside (0, 1], and a `round_to` below 1.
    """
    if (rank is None) == (fraction is None):
        both = f"rank={rank!r} and energy={fraction!r}"
        raise ValueError(f"{form} of {pattern!r} takes either rank or energy, not {both}")
    if round_to < 1:
        raise ValueError(f"round_to={round_to} for pattern {pattern!r} must be at least 1")
    if fraction is not None:
        if not 0 < fraction <= 1:
            raise ValueError(f"energy {fraction!r} for pattern {pattern!r} is not a fraction in (0, 1]")
        return energy(fraction)
    assert rank is not None
    if not callable(rank) and not isinstance(rank, Mapping):
        number(rank, f"pattern {pattern!r}")
    return rank


def chosen(rank: Rank, path: str, matrices: Sequence[Array], shape: tuple[int, ...], *, round_to: int = 1) -> int:
    """Returns the rank that a rule, a number, or a table by path gives the matrix of a kernel of `shape`.

    Of a stack there is a matrix for each layer, all of one rank: of a rule the largest that it finds. A rule's is
    rounded up to a multiple of `round_to`, from that to the full rank. Raises ValueError, with the path, for a number
    that is below 1 or above the full rank, and for a table without the path.
    """
    full = min(matrices[0].shape)
    if callable(rank):
        rounded = -(-max(map(rank, matrices)) // round_to) * round_to
        return min(max(rounded, round_to), full)
    fixed = number(at(rank, path), path)
    if fixed > full:
        raise ValueError(f"rank {fixed} is above the full rank {full} of {path}, shape {shape}")
    return fixed


def at(rank: Any, path: str) -> Any:
    """Returns what a table by path has for one path, or what is no table; raises ValueError for a missing path."""
    if not isinstance(rank, Mapping):
        return rank
    if path not in rank:
        raise ValueError(f"there is no rank for {path}; there are ranks for {', '.join(sorted(rank))}")
    return rank[path]


def number(rank: Any, where: str, what: str = "rank") -> int:
    """Returns a rank, or another count, as an int; raises ValueError for what is not an integer of at least 1."""
    if isinstance(rank, bool) or not isinstance(rank, int | np.integer) or rank < 1:
        raise ValueError(f"{what} {rank!r} for {where} is not an integer of at least 1")
    return int(rank)
