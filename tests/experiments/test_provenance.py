"""The version of the code that makes results changes with the files that make them, and with no others."""

import importlib.metadata
import pathlib

import pytest

import experiments
import jaxcompress
from experiments import provenance

ROOT = pathlib.Path(jaxcompress.__file__).parent.parent


@pytest.fixture
def code(monkeypatch):
    """Returns the version of the code anew, with other sources if they are given."""

    def found(sources=None):
        if sources is not None:
            monkeypatch.setattr(provenance, "sources", lambda: sources)
        return provenance.code.__wrapped__()

    return found


def test_sources_are_those_of_the_library_and_of_what_trains():
    names = set(provenance.sources())
    assert {f"jaxcompress/{name}.py" for name in ("lc", "prune/magnitude", "export/packed")} < names
    assert {f"experiments/{name}.py" for name in ("train", "data", "config/pruning", "teaching/lesson")} < names
    assert not {f"experiments/{name}.py" for name in ("tables", "report", "cli", "benchmarks/steps")} & names
    assert all((ROOT / name).samefile(path) for name, path in provenance.sources().items())
    of_library = {path.relative_to(ROOT).as_posix() for path in pathlib.Path(jaxcompress.__file__).parent.rglob("*.py")}
    assert {name for name in names if name.startswith("jaxcompress/")} == of_library


def test_every_reader_is_a_file_or_a_package():
    folder = pathlib.Path(experiments.__file__).parent
    assert all((folder / name).is_dir() or (folder / f"{name}.py").exists() for name in provenance._READERS)


def test_a_changed_a_new_and_a_renamed_source_are_other_code(code, tmp_path):
    here, sources = code(), provenance.sources()
    assert here["jaxcompress"] == importlib.metadata.version("jaxcompress") and code(dict(sources)) == here
    changed = tmp_path / "train.py"
    changed.write_bytes(sources["experiments/train.py"].read_bytes() + b"\n")
    assert code(sources | {"experiments/train.py": changed}) != here
    assert code(sources | {"experiments/zebra.py": changed}) != here
    renamed = {name.replace("experiments/train", "experiments/trainer"): path for name, path in sources.items()}
    assert code(renamed) != here


def test_differences_are_said():
    same = {"data_sha256": "a" * 64, "code": provenance.code()}
    assert provenance.differences(same, "a" * 64) == provenance.differences(same, None) == []
    (data,) = provenance.differences(same, "b" * 64)
    assert data == f"from other data (SHA-256 {'a' * 12}, now {'b' * 12})"
    older = same | {"code": {"jaxcompress": "0.0.1", "sources_sha256": "c" * 64}}
    (told,) = provenance.differences(older, "a" * 64)
    assert told.startswith(f"by other code (jaxcompress 0.0.1 of sources {'c' * 12}, now jaxcompress ")
    (told,) = provenance.differences({"data_sha256": "a" * 64}, "a" * 64)
    assert told.startswith("by code of which it records no version")
    assert provenance.differences(same | {"begun": {"code": None}}, None) == [
        "in part from other data or by other code, with which it was begun"
    ]
    assert len(provenance.differences({}, "a" * 64)) == 2
