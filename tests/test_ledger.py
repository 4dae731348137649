"""The ledger: every byte of the file and every multiply-add has a place in it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import lift, pack
from jaxcompress.arrays import Clustered, FakeQuantized, LowRank, Masked, Summed, TensorTrain
from jaxcompress.arrays.factored import Factored
from jaxcompress.export import save
from jaxcompress.export.packed import encode
from jaxcompress.ledger import ledger
from tests.arrays.test_contract import EVERY_LEAF, LEAVES
from tests.nets import NETS


def tree():
    return {"a": {name: make() for name, make in LEAVES.items()}, "bias": jnp.array([0.0, 1.0, 2.0])}


@pytest.fixture(scope="module")
def account():
    return ledger(None, tree())


def test_totals_equal_the_file(account, tmp_path):
    size = save(tmp_path / "model.jcpk", tree())
    assert account.packed_bytes == size == (tmp_path / "model.jcpk").stat().st_size
    assert account.packed_bytes == account.overhead_bytes + sum(entry.packed_bytes for entry in account.entries)
    assert account.rate == account.dense_bytes / size


def test_entries_list_every_leaf_with_streams_that_sum(account):
    assert sorted(e.path for e in account.entries) == sorted([*(f"a/{name}" for name in LEAVES), "bias"])
    stored = {"/".join(path): coded for path, coded in encode(tree())}
    for entry in account.entries:
        assert entry.packed_bytes == sum(entry.streams.values())
        assert entry.streams == stored[entry.path].bytes_by_coding()


@EVERY_LEAF
def test_dense_bytes_and_counts_are_those_of_the_dense_array(name, account):
    leaf = LEAVES[name]()
    entry = next(e for e in account.entries if e.path == f"a/{name}")
    assert entry.parameters == leaf.size
    assert entry.dense_bytes == leaf.size * leaf.dtype.itemsize
    parts = [form.__name__ for form in (*Factored.__subclasses__(), Summed)]
    factors = any(part in entry.kind for part in parts)  # what is stored is counted: the two tests below
    if not factors and "filled" not in name:  # what fills removed places is no weight
        assert entry.nonzero == np.count_nonzero(np.asarray(leaf.dense()))


def test_factors_count_the_entries_of_both():
    leaf = LowRank(jnp.ones((6, 2)), jnp.ones((2, 5)))
    (entry,) = ledger(None, {"a": leaf}).entries
    assert (entry.parameters, entry.nonzero) == (30, 22)
    masked = LowRank(Masked(jnp.ones((6, 2)), jnp.arange(12).reshape(6, 2) < 5), jnp.ones((2, 5)))
    assert ledger(None, {"a": masked}).entries[0].nonzero == 15
    cores = (jnp.ones((1, 2, 3, 4)), jnp.ones((4, 3, 2, 1)))
    assert ledger(None, {"a": TensorTrain(cores)}).entries[0].nonzero == 2 * 24


def test_a_sum_counts_the_entries_of_both():
    few = Masked(jnp.ones((4, 5)), jnp.arange(20).reshape(4, 5) < 3)
    assert ledger(None, {"a": Summed(few, jnp.ones((4, 5)))}).entries[0].nonzero == 23


def test_alternatives_are_never_shorter_than_what_was_chosen(account):
    compared = 0
    for entry in account.entries:
        for name, size in entry.alternatives.items():
            role = name.partition(":")[0]
            chosen = [n for n in entry.streams if n.startswith(f"{role}:")]
            assert len(chosen) == 1 and name not in entry.streams
            assert size >= entry.streams[chosen[0]], entry
            compared += 1
    assert compared > 10


def test_alternatives_name_every_coding_of_a_pruned_and_shared_leaf():
    (entry,) = ledger(None, {"a": LEAVES["masked_clustered"]()}).entries
    names = {*entry.streams, *entry.alternatives} - {"values:raw"}
    positions = {"mask:bitmask", "mask:csr", "mask:relative", "mask:relative-huffman"}
    assert names == positions | {"codes:fixed", "codes:huffman"}
    assert entry.streams["values:raw"] == 7 * 4


def test_json_has_every_number(account):
    read = json.loads(account.to_json())
    for name in ("dense_bytes", "packed_bytes", "rate", "parameters", "nonzero", "overhead_bytes", "macs"):
        assert read[name] == getattr(account, name)
    assert [entry["path"] for entry in read["entries"]] == [entry.path for entry in account.entries]
    assert read["entries"][0]["streams"] == account.entries[0].streams
    assert read["parameters"] == sum(entry["parameters"] for entry in read["entries"])


def test_text_has_a_line_for_every_leaf_and_the_total(account):
    lines = str(account).splitlines()
    for entry in account.entries:
        assert sum(line.startswith(f"{entry.path} ") for line in lines) == 1
    total = next(line for line in lines if line.startswith("total"))
    assert f"{account.packed_bytes:,}" in total and f"{account.dense_bytes:,}" in total
    assert f"{account.parameters:,}" in total and f"{account.nonzero:,}" in total
    assert "multiply-adds" not in str(account)


@pytest.mark.parametrize(
    ("leaf", "kind"),
    [
        (Masked(Clustered(jnp.int32([0, 1]), jnp.ones(2)), jnp.array([True, False])), "Masked(Clustered 2)"),
        (LowRank(jnp.ones((2, 1)), jnp.ones((1, 2))), "LowRank(float32, float32)"),
        (FakeQuantized(jnp.ones((2, 2)), jnp.int32(4), (-2,)), "Quantized 4-bit"),
        (jnp.ones(2, jnp.bfloat16), "bfloat16"),
    ],
)
def test_kinds_are_named(leaf, kind):
    assert ledger(None, {"a": leaf}).entries[0].kind == kind


def test_macs_count_dense_and_compressed_calls():
    net = NETS["linen_mlp"]()
    inputs, hidden = net.params["fc1"]["kernel"].shape
    others = sum(net.params[name]["kernel"].size for name in ("fc2", "fc3"))
    factored = {"kernel": LowRank(jnp.ones((inputs, 2)), jnp.ones((2, hidden))), "bias": net.params["fc1"]["bias"]}
    found = ledger(net.apply, {**net.params, "fc1": factored}, net.x[:1])
    assert found.dense_macs == inputs * hidden + others
    assert found.macs == 2 * (inputs + hidden) + others
    assert f"{found.macs:,}" in str(found) and json.loads(found.to_json())["dense_macs"] == found.dense_macs


def test_memory_is_that_of_activations_dense_and_compressed():
    apply, x = lift(lambda params, x: x @ params["kernel"]), jax.ShapeDtypeStruct((1, 100), jnp.float32)
    found = ledger(apply, {"kernel": LowRank(jnp.ones((100, 2)), jnp.ones((2, 60)))}, x)
    assert (found.dense_memory, found.memory) == (4 * (100 + 60), 4 * (100 + 2))
    assert "activations, peak B" in str(found) and json.loads(found.to_json())["memory"] == 408
    assert ledger(None, {"kernel": jnp.ones(2)}).memory is None


def test_packed_and_training_forms_have_the_same_ledger():
    assert ledger(None, tree()) == ledger(None, pack(tree()))


def test_tree_that_cannot_be_stored_is_refused():
    with pytest.raises(ValueError, match="nested dicts with text keys"):
        ledger(None, [jnp.ones(2)])


def test_keys_with_slashes_are_kept_apart():
    found = ledger(None, {"a": {"b": jnp.ones(2)}, "a/b": jnp.ones(5)})
    assert found.parameters == 7


def test_empty_tree_has_a_ledger():
    found = ledger(None, {})
    assert (found.entries, found.packed_bytes, found.parameters) == ((), found.overhead_bytes, 0)
    assert "total" in str(found)


def test_dense_model_costs_its_weights_and_a_header():
    params = jax.tree.map(jnp.zeros_like, NETS["linen_mlp"]().params)
    found = ledger(None, params)
    assert found.packed_bytes - found.overhead_bytes == found.dense_bytes
    assert found.nonzero == 0 and found.rate < 1


def test_keys_that_would_turn_the_text_are_escaped_where_it_is_printed():
    account = ledger(None, {"a\u202eb": jnp.ones(2), "größe": jnp.ones(2)})
    assert [entry.path for entry in account.entries] == ["a\u202eb", "größe"]
    assert "\u202e" not in str(account) and "a\\u202eb" in str(account) and "größe" in str(account)
