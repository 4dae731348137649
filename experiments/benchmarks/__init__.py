"""What techniques cost in time: steps, mask updates, integers and their files, measured side by side."""

from experiments.benchmarks.distilled import distill as distill
from experiments.benchmarks.factorized import factorize as factorize
from experiments.benchmarks.pruned import prune as prune
from experiments.benchmarks.quantized import quantize as quantize
from experiments.benchmarks.steps import train_step as train_step
from experiments.benchmarks.swept import sweep as sweep
from experiments.benchmarks.timing import QUICK as QUICK
from experiments.benchmarks.timing import Effort as Effort
from experiments.benchmarks.timing import File as File
from experiments.benchmarks.timing import Report as Report
from experiments.benchmarks.timing import Row as Row
