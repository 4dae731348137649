"""What leaves the program: the packed file and TFLite."""

from jaxcompress.export.integers import compared as compared
from jaxcompress.export.integers import integers as integers
from jaxcompress.export.packed import load as load
from jaxcompress.export.packed import save as save
from jaxcompress.export.tflite import tflite as tflite
