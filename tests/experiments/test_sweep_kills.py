"""A sweep that is killed at any of its file operations ends in the bits of one that was not."""

import json
import random
import shutil
import signal

import pytest

from experiments import grid
from experiments.config import MLP, Data, Experiment, Stage
from tests.experiments.kills import Launcher
from tests.experiments.test_sweep import PRUNE, SGD

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("promotion")]

EXPERIMENT = Experiment(Data("digits", 200), MLP((16,)), (Stage("pruned", 4, 50, SGD, (PRUNE,)),))
AXES = [grid.Axis("sparsity", (0.5, 0.9)), grid.Axis("seed", (0, 1))]
POINTS = [point.experiment for point in grid.points(EXPERIMENT, AXES)]
ANYWHERE = [random.Random(i).random() for i in range(14)]  # of all operations
LAST = [random.Random(i).random() for i in range(14, 20)]  # of those after which one point is left


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    return Launcher(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def whole(launch, tmp_path_factory):
    """Returns ``whole(width)``: what a sweep that nothing ends comes to, and its operations; each is run once.

    A width is a number that is asked for, or the folder of a sweep that has chosen one.
    """
    folder, known = tmp_path_factory.mktemp("whole"), {}

    def of(width):
        key = width if isinstance(width, int) else chosen(width)["width"]
        if (key, type(width)) not in known:
            root = folder / str(len(known))
            if not isinstance(width, int):
                (cohort,) = width.glob("*/cohort.json")
                (root / cohort.parent.name).mkdir(parents=True)
                shutil.copy(cohort, root / cohort.parent.name)
            code, operations = launch(root, POINTS, width if isinstance(width, int) else None)
            assert code == 0
            known[key, type(width)] = results(root), operations
        return known[key, type(width)]

    return of


def chosen(root):
    (cohort,) = root.glob("*/cohort.json")
    return json.loads(cohort.read_text())


def results(root):
    """Returns what each point came to, and what was recorded of its training."""
    found = {}
    for path in root.glob("*/metrics.json"):
        cohort = json.loads(path.with_name("environment.json").read_text())["cohort"]
        rows = path.with_name("metrics.jsonl").read_text()
        found[path.parent.name] = json.loads(path.read_text()), cohort, rows, path.with_name("model.jcpk").read_bytes()
    return found


@pytest.mark.parametrize(("number", "width"), [(number, (4, 1, None)[number % 3]) for number in range(20)])
def test_a_killed_sweep_ends_in_the_same_bits(number, width, launch, whole, tmp_path):
    _, operations = whole(4)
    finished = [
        i for i, (event, path) in enumerate(operations, 1) if (event, path[-13:]) == ("os.rename", "/metrics.json")
    ]
    first, last = (finished[-2] + 1, finished[-1]) if number >= 14 else (1, len(operations))
    at = first + int([*ANYWHERE, *LAST][number] * (last + 1 - first))
    code, _ = launch(tmp_path / "runs", POINTS, width, at)
    assert code == -signal.SIGKILL
    before = results(tmp_path / "runs")
    assert len(before) == 3 or number < 14
    code, _ = launch(tmp_path / "runs", POINTS, width)
    assert code == 0
    found, (expected, _) = results(tmp_path / "runs"), whole(tmp_path / "runs" if width is None else width)
    assert len(found) == len(POINTS)
    for name, result in found.items():
        assert result[0]["params_sha256"] == expected[name][0]["params_sha256"], name
        assert result == expected[name], name
        assert result == before.get(name, result), name
