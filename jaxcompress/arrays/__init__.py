"""Typed leaves: compressed weights that stand in a parameter tree where the array stood."""

from jaxcompress.arrays.base import CompressedArray as CompressedArray
from jaxcompress.arrays.base import TrainingForm as TrainingForm
from jaxcompress.arrays.base import data_fields as data_fields
from jaxcompress.arrays.base import decode as decode
from jaxcompress.arrays.base import dense as dense
from jaxcompress.arrays.base import densify as densify
from jaxcompress.arrays.base import encode as encode
from jaxcompress.arrays.base import is_compressed as is_compressed
from jaxcompress.arrays.base import kinds as kinds
from jaxcompress.arrays.base import pack as pack
from jaxcompress.arrays.base import stacked as stacked
from jaxcompress.arrays.base import static_fields as static_fields
from jaxcompress.arrays.binary import Binary as Binary
from jaxcompress.arrays.binary import ScaledBinary as ScaledBinary
from jaxcompress.arrays.binary import Ternary as Ternary
from jaxcompress.arrays.binary import TrainedTernary as TrainedTernary
from jaxcompress.arrays.clustered import Clustered as Clustered
from jaxcompress.arrays.learned import DoReFa as DoReFa
from jaxcompress.arrays.learned import LearnedStep as LearnedStep
from jaxcompress.arrays.low_rank import LowRank as LowRank
from jaxcompress.arrays.masked import Masked as Masked
from jaxcompress.arrays.quantized import FakeQuantized as FakeQuantized
from jaxcompress.arrays.quantized import Quantized as Quantized
