"""A damaged file is named, with what to do about it."""

import json

import pytest

from experiments import records


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "Expecting value"),
        (b'{"error": 1.5, "acc', "Unterminated string"),
        (b"[]", "it holds a list, not an object"),
        (b"3", "it holds a int, not an object"),
        (b"\xff\xfe{", "decode"),
        (b"[" * 100000, "recursion"),
        (b'{"loss": 1}', "it has no 'epoch'"),
    ],
)
def test_what_is_damaged_is_named_with_its_remedy(tmp_path, content, told):
    path = tmp_path / "metrics.json"
    path.write_bytes(content)
    with pytest.raises(ValueError) as raised:
        records.read(path, "remove it", keys=("epoch",))
    assert str(raised.value).startswith(f"{path} is damaged (") and str(raised.value).endswith("); remove it")
    assert told in str(raised.value)


def test_what_is_not_there_is_named_with_its_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"none\.json is not there; remove its folder"):
        records.read(tmp_path / "none.json")


def test_what_is_whole_is_read(tmp_path):
    path, record = tmp_path / "metrics.json", {"epoch": 1, "loss": [0.5, None]}
    path.write_text(json.dumps(record))
    assert records.read(path, keys=("epoch",)) == record
