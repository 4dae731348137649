"""Least squares from sums over examples, which may be more than fit into memory."""

import numpy as np
from jaxtyping import Float


def minimizer(moment: Float[np.ndarray, "rows rows"], cross: Float[np.ndarray, "rows outputs"]) -> np.ndarray:
    """Returns the W of least ``sum((Y - X W)**2)``, of least norm if there are several; float64.

    `moment` is X'X and `cross` X'Y, summed in float32 or better. Directions whose eigenvalue is below the largest one
    times the rows times float32's epsilon hold nothing but rounding, and get none of W.
    """
    cutoff = float(len(moment) * np.finfo(np.float32).eps)
    return np.linalg.lstsq(np.asarray(moment, np.float64), np.asarray(cross, np.float64), rcond=cutoff)[0]
