"""What techniques cost in time: training steps and mask updates, measured side by side."""

from experiments.benchmarks.masks import mask_update as mask_update
from experiments.benchmarks.steps import train_step as train_step
from experiments.benchmarks.timing import QUICK as QUICK
from experiments.benchmarks.timing import Effort as Effort
from experiments.benchmarks.timing import Report as Report
from experiments.benchmarks.timing import Row as Row
