"""Quantization: weights in fewer bits, activations as integers, and the integers of a device."""

from jaxcompress.quantize import quantizers as quantizers
from jaxcompress.quantize import ranges as ranges
from jaxcompress.quantize.activations import calibrate as calibrate
from jaxcompress.quantize.activations import fake_quantized as fake_quantized
from jaxcompress.quantize.binary import binary as binary
from jaxcompress.quantize.binary import ternary as ternary
from jaxcompress.quantize.codebook import codebook as codebook
from jaxcompress.quantize.device import on_device as on_device
from jaxcompress.quantize.device import to_integers as to_integers
from jaxcompress.quantize.learned import dorefa as dorefa
from jaxcompress.quantize.learned import lsq as lsq
from jaxcompress.quantize.post_training import post_training as post_training
from jaxcompress.quantize.quantizers import grids_of as grids_of
from jaxcompress.quantize.quantizers import train_ranges as train_ranges
from jaxcompress.quantize.quantizers import with_ranges as with_ranges
from jaxcompress.quantize.weights import weights as weights
