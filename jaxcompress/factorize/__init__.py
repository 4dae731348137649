"""Factorization: transforms that replace a kernel by thin factors, and rules that choose their ranks."""

from jaxcompress.factorize.factoring import Declined as Declined
from jaxcompress.factorize.ranks import energy as energy
from jaxcompress.factorize.ranks import penalized as penalized
from jaxcompress.factorize.ranks import ratio as ratio
from jaxcompress.factorize.ranks import vbmf as vbmf
from jaxcompress.factorize.svd import svd as svd
