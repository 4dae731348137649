"""Knows the releases of jaxlib that compile to wrong values."""

import os
import warnings

import jax
from jaxlib.version import __version__

_WRONG_ON_CPU = ("0.10.2",)
_REMEDY = "--xla_cpu_experimental_ynn_fusion_type="  # XLA's value is left empty: no fusion of this type


class WrongResults(UserWarning):
    """Says that this release of jaxlib computes wrong values on CPUs."""


def warn_of_wrong_results(version: str = __version__, flags: str | None = None, platforms: str | None = None) -> None:
    """Warns where a release of jaxlib is known to compute wrong values: 0.10.2 on CPUs, under jit.

    There XLA fuses an array that is padded without strides, and convolved in the same program before a reduction, into
    a kernel that reads the wrong entries. With the flag that the warning names it does not. `flags` are the XLA_FLAGS
    and `platforms` those that JAX may use, by default of this process; no backend is started to see what there is.
    """
    flags = os.environ.get("XLA_FLAGS", "") if flags is None else flags
    platforms = jax.config.jax_platforms if platforms is None else platforms  # pyright: ignore
    on_cpu = not platforms or "cpu" in platforms.split(",")
    if version in _WRONG_ON_CPU and on_cpu and _REMEDY not in flags.split():
        warnings.warn(
            f"jaxlib {version} computes wrong values on CPUs: install jaxlib 0.10.1, or 0.11 or later (from Python 3.12"
            f" on), or set XLA_FLAGS={_REMEDY} before JAX starts",
            WrongResults,
            stacklevel=3,
        )
