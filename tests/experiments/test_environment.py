"""What a result depends on is written down."""

import importlib.metadata
import json
import re

import jax

from experiments import provenance
from experiments.environment import PACKAGES, environment, processor


def test_environment_is_json_with_versions_and_commit():
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["bits_depend_on"]["backend"] == "cpu" == jax.default_backend()
    assert found["bits_depend_on"]["jaxlib"] == importlib.metadata.version("jaxlib")
    assert found["bits_depend_on"]["cores"] >= 1
    assert set(found["packages"]) == set(PACKAGES) and found["code"] == provenance.code()
    assert found["commit"] is None or re.fullmatch(r"[0-9a-f]{40}\+?", found["commit"])


def test_environment_is_the_same_twice():
    assert environment() == environment()


def test_flags_of_xla_are_part_of_what_bits_depend_on(monkeypatch):
    before = environment()["bits_depend_on"]
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    assert environment()["bits_depend_on"] != before


def test_processor_has_a_name():
    assert processor().strip()
