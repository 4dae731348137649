"""The models of the paper configs."""

from experiments.models.lenet import MLP as MLP
from experiments.models.lenet import LeNet5 as LeNet5
