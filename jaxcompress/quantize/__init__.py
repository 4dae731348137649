"""Quantization: transforms that store weights in fewer bits."""

from jaxcompress.quantize.codebook import codebook as codebook
from jaxcompress.quantize.weights import weights as weights
