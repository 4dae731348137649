"""Compiles for TPUs that are not here, by libtpu's own compiler."""

import pathlib
import re
import subprocess
import sys

import pytest

pytest.importorskip("libtpu", reason="pip install 'jaxcompress[tpu]'")

ROOT = pathlib.Path(__file__).parents[2]


def ran(*arguments):
    # A process of its own: libtpu is told by the environment that there is no TPU.
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)


def test_a_sweep_is_compiled_for_a_topology(tmp_path):
    over = ["--over", "sparsity=0.5,0.9", "--over", "seed=0:4"]
    config = "paper_configs/sparsity/digits.yaml"
    done = ran("scripts/sweep.py", config, *over, "--compile-for", "v5e:2x2", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "v5e:2x2: 4 devices of 15.75 GiB" in done.stdout and "8 points of pruned" in done.stdout
    lines = re.findall(r"^ *([^\d\n]+?) {2,}([\d,.]+)", done.stdout, re.M)
    found = {name: float(number.replace(",", "")) for name, number in lines}
    assert found["points at a time"] == 2
    products = 64 * 64 + 64 * 32 + 32 * 10
    assert found["FLOPs of a step"] > 2 * 50 * 3 * 2 * products  # of two points: a batch of 50, forward and backward
    assert 0 < found["of these arguments"] < found["bytes"]
    assert 0 < found["time of a step, estimated"] < 1000
    assert not (tmp_path / "runs").exists()  # nothing is trained


def test_a_topology_that_libtpu_does_not_know_is_refused(tmp_path):
    done = ran(
        "scripts/sweep.py", "paper_configs/sparsity/digits.yaml", "--compile-for", "v5e:3x5", "--out", str(tmp_path)
    )
    assert done.returncode != 0 and "--compile-for v5e:3x5" in done.stderr


BODY = """
import jax, jax.numpy as jnp
from experiments import ahead
mesh = ahead.placement("v5e:2x2", 1, None).mesh
whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
x = jax.ShapeDtypeStruct((1024, 1024), jnp.float32, sharding=whole)

def one(x, w):
    return jnp.tanh(jnp.tanh(x @ w) @ w)

def seconds(turns):
    loop = lambda x, w: jax.lax.scan(lambda x, _: (one(x, w), None), x, None, length=turns)[0]
    program = jax.jit(loop if turns else one, out_shardings=whole).lower(x, x).compile()
    return program.cost_analysis()["optimal_seconds"]

print(*map(seconds, (0, 2, 1000)))
"""


def test_the_time_of_a_loop_is_less_one_second_and_that_of_a_turn():
    done = ran("-c", BODY)
    assert done.returncode == 0, done.stderr
    alone, few, many = map(float, done.stdout.split())
    assert 0 < alone < 1 and few == many < 0
    assert alone < few % 1 < 3 * alone  # it moves what it carries, too
