"""Model compression as pure transforms over JAX parameter trees."""

from jaxcompress import adapters as adapters
from jaxcompress import arrays as arrays
from jaxcompress import budget as budget
from jaxcompress import compilers as compilers
from jaxcompress import distill as distill
from jaxcompress import export as export
from jaxcompress import factorize as factorize
from jaxcompress import invariants as invariants
from jaxcompress import lc as lc
from jaxcompress import prune as prune
from jaxcompress import quantize as quantize
from jaxcompress import schedules as schedules
from jaxcompress.additive import additive as additive
from jaxcompress.arrays import densify as densify
from jaxcompress.interpreters import Graph as Graph
from jaxcompress.interpreters import Rebuilt as Rebuilt
from jaxcompress.interpreters import channels as channels
from jaxcompress.interpreters import cost as cost
from jaxcompress.interpreters import integers as integers
from jaxcompress.interpreters import lift as lift
from jaxcompress.interpreters import macs as macs
from jaxcompress.interpreters import memory as memory
from jaxcompress.interpreters import patches as patches
from jaxcompress.interpreters import peak_memory as peak_memory
from jaxcompress.interpreters import read as read
from jaxcompress.interpreters import smaller as smaller
from jaxcompress.interpreters import taps as taps
from jaxcompress.interpreters import uses as uses
from jaxcompress.ledger import Ledger as Ledger
from jaxcompress.ledger import ledger as ledger
from jaxcompress.statistics import reestimate as reestimate
from jaxcompress.transform import Transform as Transform
from jaxcompress.transform import chain as chain
from jaxcompress.transform import combine as combine
from jaxcompress.transform import every as every
from jaxcompress.transform import pack as pack
from jaxcompress.transform import partition as partition

compilers.warn_of_wrong_results()
