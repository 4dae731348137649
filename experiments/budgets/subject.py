"""The model that a budget is for."""

import hashlib
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from experiments import build, config
from experiments.data import Dataset, Split, drawn
from experiments.variables import digest
from jaxcompress.budget import Cost, Damages, Key, Leaves, leaf_errors, leaf_losses
from jaxcompress.factorize import multiply_adds
from jaxcompress.paths import Params


class Subject(NamedTuple):
    """Holds a model, its weights apart from its statistics, and the examples that tell what harms it."""

    model: config.Model
    classes: int
    weights: Params
    statistics: Params
    examples: Split

    @classmethod
    def of(
        cls, experiment: config.Experiment, data: Dataset, weights: Params, statistics: Params, examples: int
    ) -> "Subject":
        """Returns the model of an experiment, with training examples drawn by its seed."""
        return cls(experiment.model, data.classes, weights, statistics, drawn(data.train, examples, experiment.seed))

    @property
    def example(self) -> jax.ShapeDtypeStruct:
        """One input."""
        return jax.ShapeDtypeStruct((1, *self.examples.images.shape[1:]), jnp.float32)

    def logits(self, weights: Params, images: Array) -> Array:
        """Runs the lifted model in inference."""
        return build.predictor(self.model, self.classes)(weights | self.statistics, images)

    def cost(self) -> Cost:
        """Returns the count of multiply-adds."""
        return multiply_adds(self.logits, self.example)

    def damages(self, kind: Literal["error", "loss"], leaves: Leaves[Key]) -> Damages[Key]:
        """Returns the relative errors of leaves, or by how much each raises the loss on the examples."""
        if kind == "error":
            return leaf_errors(self.weights, leaves)
        images, labels = build.scaled(jnp.asarray(self.examples.images)), jnp.asarray(self.examples.labels)
        return leaf_losses(self.weights, leaves, jax.jit(partial(self._loss, images, labels)))

    def _loss(self, images: Array, labels: Array, weights: Params) -> Array:
        return optax.softmax_cross_entropy_with_integer_labels(self.logits(weights, images), labels).mean()

    def sha256(self) -> str:
        """Returns a hash over all of it: the model, the bits of the weights and their structure, the examples."""
        given = self.weights, self.statistics, tuple(self.examples)
        together = f"{self.model} {self.classes} {jax.tree.map(jnp.shape, given)} {jax.tree.structure(given)}"
        return hashlib.sha256((together + "".join(map(digest, given))).encode()).hexdigest()
