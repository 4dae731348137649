"""Pruning: transforms that take weights away."""

from jaxcompress.prune.magnitude import magnitude as magnitude
from jaxcompress.prune.magnitude import threshold as threshold
