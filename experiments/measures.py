"""What is measured of a trained model: the numbers that tables, sweeps and verification share."""

import hashlib
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

import jaxcompress as jc
from experiments import build, config, evaluate
from experiments.data import Dataset
from experiments.ramps import unreached
from experiments.reached import reached
from experiments.variables import digest
from jaxcompress.ledger import Ledger


class Measured(NamedTuple):
    """Holds the metrics of a run, its ledger, and its logits on the test set."""

    metrics: dict[str, Any]
    account: Ledger
    outputs: np.ndarray


def measured(experiment: config.Experiment, data: Dataset, params: Any, restored: Any, given: Any) -> Measured:
    """Measures what an experiment made: `params` in training form, `restored` as the packed file holds them.

    `given` are the parameters that its last stage began with, None for the first stage.
    """
    logits = build.predictor(experiment.model, data.classes, experiment.activations)
    outputs = evaluate.predict(logits, restored, data.test.images)
    account = accounted(experiment, data, params)
    metrics = evaluate.quality(outputs, data.test.labels)._asdict()
    metrics |= {
        "bytes": account.packed_bytes,
        "rate": account.rate,
        "parameters": account.nonzero,
        "macs": account.macs,
        "memory": account.memory,
        **dense_sizes(account),
        **targets(experiment, data, params),
        "activity": evaluate.activity(logits, restored, data.test.images),
        "broken": [] if given is None else jc.invariants.broken(given, params),
        "params_sha256": digest(params),
        "logits_sha256": hashlib.sha256(outputs.tobytes()).hexdigest(),
    }
    return Measured(metrics, account, outputs)


def accounted(experiment: config.Experiment, data: Dataset, params: Any) -> Ledger:
    """Returns the ledger of parameters, for one image."""
    logits = build.predictor(experiment.model, data.classes, experiment.activations)
    return jc.ledger(logits, params, jnp.zeros((1, *data.test.images.shape[1:]), jnp.float32))


def dense_sizes(account: Ledger) -> dict[str, Any]:
    """Returns the metrics of the dense model."""
    return {
        "dense_bytes": account.dense_bytes,
        "dense_parameters": account.parameters,
        "dense_macs": account.dense_macs,
        "dense_memory": account.dense_memory,
    }


def targets(experiment: config.Experiment, data: Dataset, params: Any) -> dict[str, Any]:
    """Returns the metrics of what was asked of parameters: what they have reached, and what schedules have not."""
    found = reached(params)
    return {
        "sparsity": found.sparsity,
        "bits": found.bits,
        "reached": found.leaves,
        "unreached": unreached(experiment, data),
    }
