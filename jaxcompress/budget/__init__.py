"""The least damage within a budget: of bits, of ranks, of sparsity, of all of them together."""

from jaxcompress.budget.allocation import allocate as allocate
from jaxcompress.budget.allocation import allocate_within as allocate_within
from jaxcompress.budget.joint import Level as Level
from jaxcompress.budget.joint import Step as Step
from jaxcompress.budget.joint import forms as forms
from jaxcompress.budget.joint import grid as grid
from jaxcompress.budget.joint import packed_bytes as packed_bytes
from jaxcompress.budget.joint import recipe as recipe
from jaxcompress.budget.levels import Cost as Cost
from jaxcompress.budget.levels import Damages as Damages
from jaxcompress.budget.levels import Key as Key
from jaxcompress.budget.levels import Leaves as Leaves
from jaxcompress.budget.levels import chosen as chosen
from jaxcompress.budget.levels import leaf_errors as leaf_errors
from jaxcompress.budget.levels import leaf_losses as leaf_losses
from jaxcompress.budget.levels import levels_within as levels_within
from jaxcompress.budget.memory import excess_memory as excess_memory
from jaxcompress.budget.precision import layer_bytes as layer_bytes
from jaxcompress.budget.precision import mixed_precision as mixed_precision
