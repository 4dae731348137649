"""Distillation: losses by which a student learns from a teacher."""

from jaxcompress.distill.logits import kd as kd
