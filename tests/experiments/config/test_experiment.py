"""Stages and experiments that make no sense are refused as soon as they are made."""

import pytest

from experiments.config import MLP, Connections, Data, Experiment, Magnitude, Optimiser, PostTraining, Stage


@pytest.mark.parametrize("sparsity", [-0.1, 1.5])
def test_a_sparsity_is_a_fraction(sparsity):
    for make in (Magnitude, Connections):
        with pytest.raises(ValueError, match=f"sparsity={sparsity} for 'fc1/kernel' is not a fraction"):
            make("fc1/kernel", sparsity)


@pytest.mark.parametrize("changes", [{"batch": 0}, {"epochs": -1}, {"verify": -1}])
def test_stage_refuses_counts_that_make_no_sense(changes):
    with pytest.raises(ValueError, match="epochs and verify are at least 0, batch at least 1"):
        Stage(**({"name": "dense", "epochs": 1} | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"decay": "exponential"}, "decay 'exponential', final=0.0: 'exponential', and no other, needs final > 0"),
        ({"decay": "exponential", "final": -1e-6}, "final=-1e-06"),
        ({"final": 1e-6}, "decay 'cosine', final=1e-06"),
        ({"final": -1e-6}, "decay 'cosine', final=-1e-06"),
        ({"decay": "steps"}, r"decay 'steps', at=\(\): 'steps', and no other, needs epochs above 0"),
        ({"decay": "steps", "at": (0.0, 2.0)}, r"at=\(0.0, 2.0\)"),
        ({"at": (2.0,)}, r"decay 'cosine', at=\(2.0,\)"),
    ],
)
def test_decay_refuses_what_another_decay_needs(changes, words):
    with pytest.raises(ValueError, match=words):
        Optimiser(**changes)


@pytest.mark.parametrize("stages", [(), (Stage("dense", 1), Stage("dense", 2))])
def test_experiment_needs_stages_of_different_names(stages):
    with pytest.raises(ValueError, match="needs stages, each of another name"):
        Experiment(Data(), MLP(), stages)


@pytest.mark.parametrize(
    "stages, words",
    [
        ((PostTraining("q"),), "stands last in an experiment, on top of another"),
        ((Stage("s", 1), PostTraining("q"), Stage("t", 1)), "stands last in an experiment"),
    ],
)
def test_post_training_stands_on_top_of_a_stage_that_trains(stages, words):
    with pytest.raises(ValueError, match=words):
        Experiment(Data(), MLP(), stages)


@pytest.mark.parametrize("bits, examples", [(1, 10), (9, 10), (8, 0)])
def test_post_training_refuses_bits_and_examples_out_of_range(bits, examples):
    with pytest.raises(ValueError, match=f"bits={bits}, examples={examples}; bits are from 2 to 8"):
        PostTraining("q", bits, examples=examples)
