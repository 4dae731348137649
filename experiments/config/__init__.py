"""Configuration: frozen dataclasses, read from YAML strictly.

An experiment is a model, its data and a chain of training stages. A table is a paper's numbers and the experiments that
are to meet them. The classes are the documentation of the YAML: a field here is a key there, and where one of several
classes may stand the key ``type`` names it.
"""

from experiments.config.distillation import DIST as DIST
from experiments.config.distillation import DKD as DKD
from experiments.config.distillation import KD as KD
from experiments.config.distillation import NKD as NKD
from experiments.config.distillation import Branches as Branches
from experiments.config.distillation import Contrast as Contrast
from experiments.config.distillation import Exits as Exits
from experiments.config.distillation import Features as Features
from experiments.config.distillation import Knowledge as Knowledge
from experiments.config.distillation import Mutual as Mutual
from experiments.config.distillation import Relations as Relations
from experiments.config.distillation import StandardizedKD as StandardizedKD
from experiments.config.distillation import Synthesis as Synthesis
from experiments.config.distillation import TeacherFree as TeacherFree
from experiments.config.documents import fingerprint as fingerprint
from experiments.config.documents import load_table as load_table
from experiments.config.documents import structure as structure
from experiments.config.documents import to_plain as to_plain
from experiments.config.experiment import LC as LC
from experiments.config.experiment import AnyStage as AnyStage
from experiments.config.experiment import Augmentation as Augmentation
from experiments.config.experiment import Distill as Distill
from experiments.config.experiment import Experiment as Experiment
from experiments.config.experiment import Offset as Offset
from experiments.config.experiment import Optimiser as Optimiser
from experiments.config.experiment import PostTraining as PostTraining
from experiments.config.experiment import Preparation as Preparation
from experiments.config.experiment import Rate as Rate
from experiments.config.experiment import Stage as Stage
from experiments.config.experiment import Transfer as Transfer
from experiments.config.factorization import CP as CP
from experiments.config.factorization import SVD as SVD
from experiments.config.factorization import Budget as Budget
from experiments.config.factorization import Kronecker as Kronecker
from experiments.config.factorization import TensorTrain as TensorTrain
from experiments.config.factorization import Tucker2 as Tucker2
from experiments.config.models import MLP as MLP
from experiments.config.models import Data as Data
from experiments.config.models import LeNet5 as LeNet5
from experiments.config.models import LeNet5BN as LeNet5BN
from experiments.config.models import Model as Model
from experiments.config.models import Pixels as Pixels
from experiments.config.models import Pretrained as Pretrained
from experiments.config.models import ResNet as ResNet
from experiments.config.models import ResNet8 as ResNet8
from experiments.config.places import Place as Place
from experiments.config.places import roles as roles
from experiments.config.places import values as values
from experiments.config.places import with_values as with_values
from experiments.config.pruning import ACDC as ACDC
from experiments.config.pruning import NM as NM
from experiments.config.pruning import Connections as Connections
from experiments.config.pruning import Dynamic as Dynamic
from experiments.config.pruning import Magnitude as Magnitude
from experiments.config.pruning import Movement as Movement
from experiments.config.pruning import Removal as Removal
from experiments.config.pruning import Threshold as Threshold
from experiments.config.quantization import LSQ as LSQ
from experiments.config.quantization import Activations as Activations
from experiments.config.quantization import Binary as Binary
from experiments.config.quantization import Codebook as Codebook
from experiments.config.quantization import DoReFa as DoReFa
from experiments.config.quantization import Float8 as Float8
from experiments.config.quantization import Ternary as Ternary
from experiments.config.quantization import Weights as Weights
from experiments.config.ramps import Ramp as Ramp
from experiments.config.table import Format as Format
from experiments.config.table import Row as Row
from experiments.config.table import Table as Table
from experiments.config.techniques import Additive as Additive
from experiments.config.techniques import Technique as Technique
