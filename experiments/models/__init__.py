"""The models of the paper configs."""

from experiments.models.autoencoder import AutoEncoder as AutoEncoder
from experiments.models.ds_cnn import DSCNN as DSCNN
from experiments.models.generator import Generator as Generator
from experiments.models.lenet import MLP as MLP
from experiments.models.lenet import LeNet5 as LeNet5
from experiments.models.lenet import LeNet5BN as LeNet5BN
from experiments.models.mobilenet import MobileNetV1 as MobileNetV1
from experiments.models.resnet import ResNet as ResNet
from experiments.models.resnet import ResNet8 as ResNet8
from experiments.models.vit import ViT as ViT
