"""The short form of `fuzz_packed`, and that its bounds are bounds."""

import tracemalloc

import pytest

from tests.export import fuzz_packed
from tests.export.fuzz_packed import fuzz, outcome


@pytest.mark.parametrize("seed", [0, 1])
def test_mutated_files_are_read_or_refused_within_bounds(seed):
    outcomes = fuzz(200, seed)
    assert outcomes["read"] > 0 and outcomes["refused"] > 0


def test_what_takes_too_long_or_too_much_is_found(monkeypatch):
    data = fuzz_packed.to_bytes({"a": fuzz_packed.LEAVES["masked"]()})
    tracemalloc.start()
    try:
        assert outcome(data) == "read"
        monkeypatch.setattr(fuzz_packed, "SECONDS", 0.0)
        with pytest.raises(AssertionError, match=" s for b'JCPK"):
            outcome(data)
        monkeypatch.undo()
        monkeypatch.setattr(fuzz_packed, "LIMIT", 10)
        monkeypatch.setattr(fuzz_packed, "TIMES", 0)
        with pytest.raises(AssertionError, match="bytes for b'JCPK"):
            outcome(data)
    finally:
        tracemalloc.stop()
