"""The memory of activations, by hand; tests/peers holds it to where LiteRT lays them."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from jaxcompress import lift, memory, peak_memory
from jaxcompress.arrays import LowRank, Masked
from tests.nets import NETS, data

W = jax.ShapeDtypeStruct((8, 40), jnp.float32)
X = jax.ShapeDtypeStruct((1, 8), jnp.float32)
GIVEN, MADE = 4 * 8, 4 * 40  # bytes of x and of x @ w


def test_what_an_operation_reads_and_makes_is_alive():
    def apply(w, x):
        return (x @ w["a"]) @ w["b"]

    assert memory(apply, {"a": W, "b": data(40, 3)}, X) == [GIVEN + MADE, MADE + 12]
    assert peak_memory(apply, {"a": W, "b": data(40, 3)}, X) == GIVEN + MADE


def test_elementwise_operations_write_over_what_is_read_no_more():
    def chain(w, x):
        return jax.nn.relu(x @ w + 1.0) * 2.0  # the relu is a program of its own inside

    assert memory(chain, W, X) == [GIVEN + MADE, *[MADE] * 3]
    twice = lambda w, x: (y := x @ w) * jnp.exp(y)
    assert memory(twice, W, X) == [GIVEN + MADE, 2 * MADE, 2 * MADE]


def test_an_operand_of_another_size_is_not_written_over():
    apply = lambda w, x: (x @ w) > 0.0  # bools take a byte each
    assert memory(apply, W, X) == [GIVEN + MADE, MADE + 40]


def test_a_skip_connection_stays_alive():
    def apply(w, x):
        return x + jnp.flip((x @ w)[:, :8])

    assert memory(apply, W, X) == [GIVEN + MADE, GIVEN + MADE + GIVEN, 3 * GIVEN, 2 * GIVEN]


def test_outputs_stay_to_the_end_and_are_not_written_over():
    apply = lambda w, x: ((y := x @ w), y + 1.0)
    assert memory(apply, W, X) == [GIVEN + MADE, 2 * MADE]


def test_weights_and_what_is_made_of_them_are_not_counted():
    apply = lambda w, x: x @ (jnp.exp(w) * jnp.sqrt(w @ w.T @ w))
    assert memory(apply, W, X) == [GIVEN + MADE]
    assert memory(lambda w: w @ w.T, W) == [] and peak_memory(lambda w: w @ w.T, W) == 0


def test_compressed_leaves_count_as_they_run():
    apply = lift(lambda w, x: x @ w)
    assert peak_memory(apply, LowRank(data(8, 2), data(2, 40)), X) == 8 + MADE
    assert peak_memory(apply, Masked(data(8, 40), data(8, 40) > 9), X) == GIVEN + MADE


@pytest.mark.parametrize("call", [jax.jit, jax.checkpoint, lambda f: jax.jit(jax.checkpoint(f))])
def test_programs_within_are_read(call):
    inner = lambda w, x: jnp.tanh(x @ w)
    assert memory(lambda w, x: call(inner)(w, x) @ w.T, W, X) == [GIVEN + MADE, MADE, MADE + GIVEN]


def test_the_body_of_a_loop_counts_by_the_turn():
    def turn(x, w):
        return (x @ w) @ w.T

    around = GIVEN + GIVEN  # what the loop is given and what it makes; in its body stands what a turn makes
    loop = lambda w, x: lax.scan(lambda x, _: (turn(x, w), None), x, None, length=5)[0]
    assert memory(loop, W, X) == [around + MADE, around + MADE + GIVEN]
    loop = lambda w, x: lax.while_loop(lambda x: jnp.sum(x) < 1, lambda x: turn(x, w), x)
    assert memory(loop, W, X) == [around + 4, around + 5, around + MADE, around + MADE + GIVEN]


def test_a_conditional_counts_the_dearer_branch():
    def apply(w, x):
        return lax.cond(x[0, 0] > 0, lambda: x * 2.0, lambda: (x @ w) @ w.T)

    index = 4
    assert peak_memory(apply, W, X) == GIVEN + index + GIVEN + MADE + GIVEN


def test_an_input_that_nothing_reads_takes_no_memory_and_a_scatter_that_of_its_arrays():
    assert memory(lambda w, x, unread: x @ w, W, X, W) == [GIVEN + MADE]
    assert max(memory(lambda w, x: x.at[0, 1].add(3.0) @ w, W, X)) == GIVEN + MADE


def test_a_batch_takes_as_many_times_the_memory():
    net = NETS["linen_lenet5"]()
    one, four = (jax.ShapeDtypeStruct((n, *net.x.shape[1:]), net.x.dtype) for n in (1, 4))
    assert peak_memory(net.apply, net.params, four) == 4 * peak_memory(net.apply, net.params, one) > 0
