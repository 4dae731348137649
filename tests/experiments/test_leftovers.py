"""What a killed process left half-written is gone after the next start, and nothing else is."""

import pytest

from experiments import runs, sweep
from experiments.claims import claim
from tests.experiments.test_runs import DENSE
from tests.experiments.test_sweep import placement, settings_of

pytestmark = pytest.mark.usefixtures("promotion")


def leave(folder):
    """Leaves what kills within writes leave; returns the names."""
    names = [".metrics.json.abcd1234.partial", "curves.partial.png", "params.orbax-checkpoint-tmp", "checkpoint"]
    (folder / "checkpoint" / "3.orbax-checkpoint-tmp" / "d").mkdir(parents=True)
    (folder / "params.orbax-checkpoint-tmp").mkdir()
    for name in names[:2]:
        (folder / name).write_bytes(b"half")
    (folder / "notes.txt").write_text("the user's own")
    return names


@pytest.mark.parametrize("finished", [False, True])
def test_leftovers_are_removed_at_the_next_start(finished, tmp_path):
    settings, this = settings_of(tmp_path), runs.locate(DENSE, tmp_path)
    if finished:
        runs.run(DENSE, settings)
    names = leave(this.folder)
    sweep.sweep([DENSE], settings, placement()) if finished else runs.run(DENSE, settings)
    assert this.finished and (this.folder / "notes.txt").exists()
    assert not [name for name in names if (this.folder / name).exists()]


def test_what_another_process_is_writing_stays(tmp_path):
    settings = settings_of(tmp_path)
    this = runs.run(DENSE, settings)
    names = leave(this.folder)
    held = claim(this.folder)
    runs.run(DENSE, settings)
    assert all((this.folder / name).exists() for name in names)
    held.release()
    runs.run(DENSE, settings)
    assert not any((this.folder / name).exists() for name in names)
