"""Factorization: transforms that replace a kernel by thin factors, and rules that choose their ranks."""

from jaxcompress.factorize import tensorly as tensorly
from jaxcompress.factorize.cp import Unsound as Unsound
from jaxcompress.factorize.cp import cp as cp
from jaxcompress.factorize.factoring import Declined as Declined
from jaxcompress.factorize.kronecker import kronecker as kronecker
from jaxcompress.factorize.layouts import Layout as Layout
from jaxcompress.factorize.metrics import activation_scales as activation_scales
from jaxcompress.factorize.metrics import fisher as fisher
from jaxcompress.factorize.metrics import second_moments as second_moments
from jaxcompress.factorize.payment import multiply_adds as multiply_adds
from jaxcompress.factorize.payment import paying as paying
from jaxcompress.factorize.payment import seconds as seconds
from jaxcompress.factorize.ranks import Rule as Rule
from jaxcompress.factorize.ranks import energy as energy
from jaxcompress.factorize.ranks import penalized as penalized
from jaxcompress.factorize.ranks import ratio as ratio
from jaxcompress.factorize.ranks import vbmf as vbmf
from jaxcompress.factorize.regularizers import nuclear_norm as nuclear_norm
from jaxcompress.factorize.regularizers import orthogonality as orthogonality
from jaxcompress.factorize.svd import svd as svd
from jaxcompress.factorize.tensor_train import tensor_train as tensor_train
from jaxcompress.factorize.tensorly import by as by
from jaxcompress.factorize.tucker import tucker as tucker
from jaxcompress.factorize.tucker import tucker2 as tucker2
from jaxcompress.interpreters.axes import Axes as Axes
from jaxcompress.interpreters.uses import axes as axes
