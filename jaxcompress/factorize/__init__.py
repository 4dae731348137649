"""Factorization: transforms that replace a kernel by thin factors."""

from jaxcompress.factorize.svd import svd as svd
