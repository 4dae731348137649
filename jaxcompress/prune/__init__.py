"""Pruning: transforms that take weights away."""

from jaxcompress.prune import scores as scores
from jaxcompress.prune.magnitude import magnitude as magnitude
from jaxcompress.prune.magnitude import threshold as threshold
from jaxcompress.prune.masking import by_score as by_score
from jaxcompress.prune.masking import n_m as n_m
from jaxcompress.prune.patterns import Blocks as Blocks
from jaxcompress.prune.patterns import Runs as Runs
from jaxcompress.prune.patterns import Single as Single
from jaxcompress.prune.rewinding import rewind as rewind
from jaxcompress.prune.rewinding import shuffle_masks as shuffle_masks
