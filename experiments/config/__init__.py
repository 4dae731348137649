"""Configuration: frozen dataclasses, read from YAML strictly.

An experiment is a model, its data and a chain of training stages. A table is a paper's numbers and the experiments that
are to meet them. The classes are the documentation of the YAML: a field here is a key there, and where one of several
classes may stand the key ``type`` names it.
"""

from experiments.config.documents import fingerprint as fingerprint
from experiments.config.documents import load_table as load_table
from experiments.config.documents import structure as structure
from experiments.config.documents import to_plain as to_plain
from experiments.config.experiment import AnyStage as AnyStage
from experiments.config.experiment import Distill as Distill
from experiments.config.experiment import Experiment as Experiment
from experiments.config.experiment import Optimiser as Optimiser
from experiments.config.experiment import PostTraining as PostTraining
from experiments.config.experiment import Preparation as Preparation
from experiments.config.experiment import Row as Row
from experiments.config.experiment import Stage as Stage
from experiments.config.experiment import Table as Table
from experiments.config.models import MLP as MLP
from experiments.config.models import Data as Data
from experiments.config.models import LeNet5 as LeNet5
from experiments.config.models import LeNet5BN as LeNet5BN
from experiments.config.models import Model as Model
from experiments.config.models import Pretrained as Pretrained
from experiments.config.models import ResNet8 as ResNet8
from experiments.config.techniques import LSQ as LSQ
from experiments.config.techniques import SVD as SVD
from experiments.config.techniques import Activations as Activations
from experiments.config.techniques import Binary as Binary
from experiments.config.techniques import Codebook as Codebook
from experiments.config.techniques import Connections as Connections
from experiments.config.techniques import DoReFa as DoReFa
from experiments.config.techniques import Float8 as Float8
from experiments.config.techniques import Magnitude as Magnitude
from experiments.config.techniques import Ramp as Ramp
from experiments.config.techniques import Removal as Removal
from experiments.config.techniques import Technique as Technique
from experiments.config.techniques import Ternary as Ternary
from experiments.config.techniques import Threshold as Threshold
from experiments.config.techniques import Weights as Weights
