"""What an experiment stands on is listed before it, each once."""

from dataclasses import replace

from experiments.config import MLP, Distill, PostTraining, Stage, Transfer
from experiments.lineage import lineage, parents
from tests.experiments.test_runs import DENSE, PRUNED

TEACHER = replace(DENSE, model=MLP((20,)))
OTHER = replace(DENSE, model=MLP((24,)))


def test_parents_are_stages_before_rewinds_teachers_and_the_source():
    late = Stage("late", 1, rewind="dense", distill=Distill(TEACHER, ensemble=(OTHER,)))
    whole = replace(PRUNED, stages=(*PRUNED.stages, late), transfer=Transfer(replace(OTHER, seed=3), "fc2/.*"))
    assert parents(whole) == [
        replace(whole, stages=whole.stages[:2]),
        whole.until("dense"),
        TEACHER,
        OTHER,
        replace(OTHER, seed=3),
    ]
    assert parents(DENSE) == [] and parents(replace(DENSE, stages=(Stage("one", 1, rewind=None),))) == []


def test_each_is_listed_once_and_after_what_it_stands_on():
    quantized = replace(PRUNED, stages=(*PRUNED.stages, PostTraining("int8")))
    student = replace(DENSE, stages=(*DENSE.stages, Stage("student", 1, distill=Distill(TEACHER))))
    assert lineage([quantized, student, PRUNED]) == [DENSE, PRUNED, quantized, TEACHER, student]
