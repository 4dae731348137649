"""Pruning: transforms that take weights away."""

from jaxcompress.prune import activity as activity
from jaxcompress.prune import importance as importance
from jaxcompress.prune.magnitude import magnitude as magnitude
from jaxcompress.prune.magnitude import threshold as threshold
from jaxcompress.prune.selection import select as select
from jaxcompress.prune.selection import select_within as select_within
from jaxcompress.prune.slimming import slimming_penalty as slimming_penalty
