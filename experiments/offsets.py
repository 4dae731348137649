"""Shifting the biases of classes, by what leaves the fewest errors on examples held out."""

import jax.numpy as jnp
import numpy as np

from experiments import build, config, evaluate
from experiments.data import Dataset
from jaxcompress.paths import Params, rewrite

_TENTHS = 200  # shifts are tried from minus to plus so many tenths


def shifted(spec: config.Offset, experiment: config.Experiment, data: Dataset, params: Params) -> Params:
    """Returns the parameters of a run with the biases of some classes shifted.

    Raises ValueError for classes that are not in the data, a bias that is not one number a class, and a shift to be
    chosen without validation examples.
    """
    unknown = sorted(set(spec.classes) - set(range(data.classes)))
    if unknown or not spec.classes:
        raise ValueError(f"offset: classes {list(spec.classes)} are not some of 0 to {data.classes - 1}")
    chosen = np.isin(np.arange(data.classes), spec.classes)
    shift = _best(chosen, experiment, data, params) if spec.shift is None else spec.shift

    def moved(path: str, bias: jnp.ndarray) -> jnp.ndarray:
        if bias.shape != (data.classes,):
            raise ValueError(
                f"offset: {path} has shape {bias.shape}, not one number for each of {data.classes} classes"
            )
        return bias + jnp.asarray(shift * chosen, bias.dtype)

    return rewrite(params, spec.bias, moved)


def _best(chosen: np.ndarray, experiment: config.Experiment, data: Dataset, params: Params) -> float:
    """Returns the shift of the chosen classes with the fewest errors on the validation examples."""
    if not len(data.validation.labels):
        raise ValueError("offset: a shift is chosen on validation examples, and none are held out")
    logits = evaluate.predict(
        build.predictor(experiment.model, data.classes, experiment.activations), params, data.validation.images
    )
    shifts = sorted(np.arange(-_TENTHS, _TENTHS + 1) / 10, key=abs)
    errors = [np.sum(np.argmax(logits + s * chosen, axis=1) != data.validation.labels) for s in shifts]
    return float(shifts[int(np.argmin(errors))])
