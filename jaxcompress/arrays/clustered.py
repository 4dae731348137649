"""Shared weights: a codebook and an index into it for every entry."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxcompress.arrays.base import CompressedArray, compressed, decode, encode, fixed, static
from jaxcompress.coding import Coded, decode_codes, encode_codes


@compressed
class Clustered(CompressedArray):
    """Means ``centroids[codes]``; the gradient of a centroid is the sum over its group (Han et al. 2016, eq. 3).

    `codes` is int32 while training and the smallest unsigned type once packed; `centroids` is float of shape
    (clusters,).
    """

    codes: Array = fixed()
    centroids: Array
    owner: str = static(default="")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    @property
    def dtype(self) -> Any:
        return self.centroids.dtype

    def dense(self) -> Array:
        return self.centroids[self.codes]

    def stacked(self) -> "Clustered":
        return replace(self, centroids=jnp.broadcast_to(self.centroids, (self.shape[0], *self.centroids.shape)))

    def pack(self) -> "Clustered":
        return replace(self, codes=self.codes.astype(_code_dtype(self.centroids.shape[0])), owner="")

    def encode(self, kept: np.ndarray | None = None) -> Coded:
        codes = np.asarray(self.codes).reshape(-1)
        codes = codes if kept is None else codes[kept]
        stream = encode_codes(codes, self.centroids.shape[0])
        return Coded("Clustered", {"shape": list(self.shape)}, (stream,), {"centroids": encode(self.centroids)})

    @classmethod
    def decode(cls, coded: Coded, kept: np.ndarray | None = None) -> "Clustered":
        centroids = decode(coded.part("centroids"))
        if centroids.ndim != 1 or not jnp.issubdtype(centroids.dtype, jnp.floating) or centroids.shape[0] == 0:
            raise ValueError(f"centroids of shape {centroids.shape} and dtype {centroids.dtype} are not a codebook")
        if kept is not None and kept.size != coded.size():
            raise ValueError(f"a mask of {kept.size} entries does not fit {coded.size()} codes")
        clusters = centroids.shape[0]
        count = coded.size() if kept is None else int(np.count_nonzero(kept))
        codes = np.zeros(coded.size(), _code_dtype(clusters))
        codes[slice(None) if kept is None else kept] = decode_codes(coded, clusters, count)
        return cls(jnp.asarray(codes.reshape(coded.shape())), centroids)


def _code_dtype(clusters: int) -> Any:
    return np.dtype(np.uint8 if clusters <= 256 else np.uint16 if clusters <= 65536 else np.uint32)
