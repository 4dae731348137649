"""Readings of a model's jaxpr."""

from jaxcompress.interpreters.channels import Channels as Channels
from jaxcompress.interpreters.channels import channels as channels
from jaxcompress.interpreters.cost import Operation as Operation
from jaxcompress.interpreters.cost import cost as cost
from jaxcompress.interpreters.cost import macs as macs
from jaxcompress.interpreters.graph import Graph as Graph
from jaxcompress.interpreters.graph import Node as Node
from jaxcompress.interpreters.integers import integers as integers
from jaxcompress.interpreters.lift import Rebuilt as Rebuilt
from jaxcompress.interpreters.lift import lift as lift
from jaxcompress.interpreters.lift import smaller as smaller
from jaxcompress.interpreters.memory import memory as memory
from jaxcompress.interpreters.memory import peak_memory as peak_memory
from jaxcompress.interpreters.patches import patches as patches
from jaxcompress.interpreters.read import read as read
from jaxcompress.interpreters.taps import taps as taps
from jaxcompress.interpreters.uses import Use as Use
from jaxcompress.interpreters.uses import uses as uses
