"""Ways to tensorly and back: leaves as its tensors, its tensors as leaves, and its decompositions as transforms.

Needs ``pip install 'jaxcompress[tensorly]'``, which nothing imports before a function of these is called. The axes of a
kernel (*window, in, out) are the modes of its tensor in that order; those of `in` and `out` may be split into several,
row-major. ``leaf.dense()`` and tensorly's reconstruction, reshaped to the kernel, are the same array.
"""

from jaxcompress.factorize.tensorly.backend import numpy_backend as numpy_backend
from jaxcompress.factorize.tensorly.leaves import to_leaf as to_leaf
from jaxcompress.factorize.tensorly.tensors import to_tensor as to_tensor
from jaxcompress.factorize.tensorly.transform import by as by
