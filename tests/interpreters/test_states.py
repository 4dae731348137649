"""Which outputs are later states of an input, by hand."""

import jax
import jax.numpy as jnp
import pytest

from jaxcompress.interpreters.base import trace
from jaxcompress.interpreters.channels import channels
from jaxcompress.interpreters.states import last_name, later_states


def found(function, *args):
    """Returns the paths of pairs of an output and the input that it is a later state of."""
    program = trace(function, args, {})
    keys = [keys for keys, _ in jax.tree_util.tree_flatten_with_path(args)[0]]
    return later_states(program, {i: last_name(path) for i, path in enumerate(keys)})


STATE = {"mean": jnp.ones(4), "var": jnp.full(4, 2.0)}
MOVES = {
    "average": lambda s, x: 0.9 * s["mean"] + 0.1 * x.mean(0),
    "as it was": lambda s, x: s["mean"],
    "in a call": lambda s, x: jax.jit(lambda m: m * 0.9 + x.mean(0))(s["mean"]),
    "in a block": lambda s, x: jax.checkpoint(lambda m: jnp.tanh(m) + x.mean(0))(s["mean"]),
    "in a loop": lambda s, x: jax.lax.scan(lambda m, row: (m * 0.9 + row, None), s["mean"], x)[0],
    "in a branch": lambda s, x: jax.lax.cond(x[0, 0] > 0, lambda m: m + 1, lambda m: m, s["mean"]),
}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES.keys())
def test_what_is_computed_entry_by_entry_under_the_same_name(move):
    x = jnp.ones((3, 4))
    assert found(lambda s, x: (x.sum(), {"mean": move(s, x)}), STATE, x) == {1: 0}


def test_what_has_another_name_another_shape_or_is_made_of_others_is_none():
    x = jnp.ones((3, 4))
    assert found(lambda s, x: {"y": s["mean"] + x[0]}, STATE, x) == {}
    assert found(lambda s, x: {"mean": s["mean"][None] + x}, STATE, x) == {}
    assert found(lambda s, x: {"mean": s["var"] + x[0]}, STATE, x) == {}
    assert found(lambda s, x: {"mean": jnp.sort(s["mean"])}, STATE, x) == {}
    assert found(lambda s, x: {"mean": x[0]}, STATE, x) == {}


def test_a_place_in_a_tuple_is_no_name():
    assert found(lambda p, x: (x + p[0], x), [jnp.ones(4)], jnp.ones(4)) == {}


def test_layers_in_a_scan_have_later_states_each():
    def apply(s, x):
        x, mean = jax.lax.scan(lambda x, m: (x * 2, m * 0.9 + x), x, s["mean"])
        return x, {"mean": mean}

    assert found(apply, {"mean": jnp.ones((3, 4))}, jnp.ones(4)) == {1: 0}


def test_the_output_of_a_model_pins_its_channels_beside_its_state():
    def apply(s, x):
        return x * s["mean"][None], {"mean": 0.9 * s["mean"] + 0.1 * x.mean(0)}

    assert channels(apply, STATE, jnp.ones((3, 4))).groups == ()
