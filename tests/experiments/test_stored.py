"""What is computed of a teacher is kept, and told from that of another teacher or of other data."""

import numpy as np
import pytest

from experiments.stored import stored

LOGITS = np.arange(6, dtype=np.float32).reshape(3, 2)
OF = {"teacher": "a" * 64, "data set": "d" * 64}


def compute():
    return {"logits": LOGITS}


def test_what_is_stored_is_not_computed_again(tmp_path):
    path = tmp_path / "logits.npz"
    np.testing.assert_array_equal(stored(path, OF, compute)["logits"], LOGITS)
    again = stored(path, OF, lambda: pytest.fail("computed again"))
    np.testing.assert_array_equal(again["logits"], LOGITS)
    assert list(again) == ["logits"] and again["logits"].dtype == np.float32
    assert [file.name for file in tmp_path.iterdir()] == ["logits.npz"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"teacher": "b" * 64}, "is of another teacher: aaaaaaaaaaaa, not bbbbbbbbbbbb; remove it"),
        ({"data set": "e" * 64}, "is of another data set: dddddddddddd, not eeeeeeeeeeee; remove it"),
    ],
)
def test_those_of_another_teacher_or_other_data_are_refused(tmp_path, other, message):
    path = tmp_path / "logits.npz"
    stored(path, OF, compute)
    with pytest.raises(ValueError, match=message):
        stored(path, OF | other, compute)


@pytest.mark.parametrize("raw", [b"", b"PK\x03\x04 not a zip", b"\x93NUMPY"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, raw):
    path = tmp_path / "logits.npz"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="logits.npz cannot be read"):
        stored(path, OF, compute)


def test_nothing_pickled_is_loaded(tmp_path):
    path = tmp_path / "logits.npz"
    shas = {f"sha256 of {what}": np.array(sha) for what, sha in OF.items()}
    np.savez(path, logits=np.array([{"a": 1}], dtype=object), **shas)
    with pytest.raises(ValueError, match="cannot be read"):
        stored(path, OF, compute)
