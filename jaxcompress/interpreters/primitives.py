"""What several readings know of primitives."""

import math
from collections.abc import Sequence

from jax.extend.core import primitives as prim

# Operations that compute each entry from the entries at its place alone.
ELEMENTWISE = [
    *(prim.add_p, prim.sub_p, prim.mul_p, prim.div_p, prim.max_p, prim.min_p, prim.pow_p, prim.rem_p, prim.atan2_p),
    *(prim.exp_p, prim.exp2_p, prim.log_p, prim.log1p_p, prim.expm1_p, prim.tanh_p, prim.logistic_p, prim.sqrt_p),
    *(prim.rsqrt_p, prim.cbrt_p, prim.erf_p, prim.erfc_p, prim.erf_inv_p, prim.neg_p, prim.abs_p, prim.sign_p),
    *(prim.floor_p, prim.ceil_p, prim.round_p, prim.integer_pow_p, prim.square_p, prim.select_n_p, prim.clamp_p),
    *(prim.convert_element_type_p, prim.stop_gradient_p, prim.copy_p, prim.gt_p, prim.lt_p, prim.ge_p, prim.le_p),
    *(prim.eq_p, prim.ne_p, prim.and_p, prim.or_p, prim.not_p, prim.xor_p, prim.is_finite_p, prim.sin_p, prim.cos_p),
    *(prim.nextafter_p, prim.reduce_precision_p),
]


def matched(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Pairs runs of axes that hold as many entries, from the first on."""
    pairs, i, j = [], 0, 0
    while i < len(before) or j < len(after):
        left, right = [i] if i < len(before) else [], [j] if j < len(after) else []
        i, j = i + len(left), j + len(right)
        while (a := math.prod(before[k] for k in left)) != (b := math.prod(after[k] for k in right)):
            if a < b:
                left.append(i)
                i += 1
            else:
                right.append(j)
                j += 1
        pairs.append((left, right))
    return pairs
