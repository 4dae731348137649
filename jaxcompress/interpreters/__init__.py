"""Readings of a model's jaxpr."""

from jaxcompress.interpreters.cost import Operation as Operation
from jaxcompress.interpreters.cost import cost as cost
from jaxcompress.interpreters.cost import macs as macs
from jaxcompress.interpreters.lift import lift as lift
from jaxcompress.interpreters.patches import patches as patches
