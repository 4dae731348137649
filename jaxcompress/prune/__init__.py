"""Pruning: transforms that take weights away."""

from jaxcompress.arrays.sliced import shrunk as shrunk
from jaxcompress.prune import activity as activity
from jaxcompress.prune import depth as depth
from jaxcompress.prune import importance as importance
from jaxcompress.prune.compensation import reconstruct as reconstruct
from jaxcompress.prune.magnitude import magnitude as magnitude
from jaxcompress.prune.magnitude import threshold as threshold
from jaxcompress.prune.removal import mask as mask
from jaxcompress.prune.removal import remove as remove
from jaxcompress.prune.removal import remove_from_state as remove_from_state
from jaxcompress.prune.selection import macs_left as macs_left
from jaxcompress.prune.selection import select as select
from jaxcompress.prune.selection import select_within as select_within
from jaxcompress.prune.slimming import slimming_penalty as slimming_penalty
