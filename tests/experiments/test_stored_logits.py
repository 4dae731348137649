"""A teacher's logits are computed once, and told from those of another teacher or of other data."""

import numpy as np
import pytest

from experiments.stored_logits import stored

LOGITS = np.arange(6, dtype=np.float32).reshape(3, 2)
TEACHER, DATA = "a" * 64, "d" * 64


def test_what_is_stored_is_not_computed_again(tmp_path):
    path = tmp_path / "logits.npz"
    np.testing.assert_array_equal(stored(path, TEACHER, DATA, lambda: LOGITS), LOGITS)
    again = stored(path, TEACHER, DATA, lambda: pytest.fail("computed again"))
    np.testing.assert_array_equal(again, LOGITS)
    assert again.dtype == np.float32 and [file.name for file in tmp_path.iterdir()] == ["logits.npz"]


@pytest.mark.parametrize(
    ("teacher", "data", "message"),
    [
        ("b" * 64, DATA, "is of another teacher: aaaaaaaaaaaa, not bbbbbbbbbbbb; remove it"),
        (TEACHER, "e" * 64, "is of another data set: dddddddddddd, not eeeeeeeeeeee; remove it"),
    ],
)
def test_those_of_another_teacher_or_other_data_are_refused(tmp_path, teacher, data, message):
    path = tmp_path / "logits.npz"
    stored(path, TEACHER, DATA, lambda: LOGITS)
    with pytest.raises(ValueError, match=message):
        stored(path, teacher, data, lambda: LOGITS)


@pytest.mark.parametrize("raw", [b"", b"PK\x03\x04 not a zip", b"\x93NUMPY"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, raw):
    path = tmp_path / "logits.npz"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="logits.npz cannot be read as stored logits"):
        stored(path, TEACHER, DATA, lambda: LOGITS)


def test_nothing_pickled_is_loaded(tmp_path):
    path = tmp_path / "logits.npz"
    np.savez(path, logits=np.array([{"a": 1}], dtype=object), teacher=np.array(TEACHER), data=np.array(DATA))
    with pytest.raises(ValueError, match="cannot be read as stored logits"):
        stored(path, TEACHER, DATA, lambda: LOGITS)
