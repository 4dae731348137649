"""Models of Flax's two interfaces as a function and a parameter tree; nothing else in the library imports flax."""

from jaxcompress.adapters import linen as linen
from jaxcompress.adapters import nnx as nnx
