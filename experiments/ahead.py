"""A sweep compiled ahead of time for TPUs that are not here: whether it fits, and what a step takes there."""

import os
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from experiments import cohorts, config, runs
from experiments.cohorts import Cohort
from experiments.convolutions import compiling_for
from experiments.placement import Placement
from experiments.rehearsal import Rehearsal
from experiments.widths import bytes_of, compiled

# Bytes that the compiler may use of a device's memory, by the generation: what it names when a program needs more.
MEMORY = {"v5e": int(15.75 * 2**30), "v5p": int(95.74 * 2**30), "v6e": int(31.25 * 2**30)}

# libtpu would look for the TPU of this machine, and take it for this process alone.
_NO_TPU = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}


class Compiled(NamedTuple):
    """Holds what the compiler says of the epoch of a cohort, for each device of a topology.

    `width` points are trained at a time on each row of devices. It counts the body of a loop once, so that `flops`,
    `bytes_accessed` and `seconds`, its own estimate, are those of one step of so many points, and of what an epoch does
    once, such as drawing its order. Of `seconds` there is the fraction alone.
    """

    points: int
    width: int
    memory: int
    arguments: int
    temporaries: int
    flops: float
    bytes_accessed: float
    seconds: float


class TooLarge(Exception):
    """Says that a cohort does not fit, and how many points of it would."""


def placement(topology: str, columns: int, width: int | None) -> Placement:
    """Lays out the devices of a topology such as ``v5e:2x4``, of which none has to be here.

    From here on this process computes on CPUs alone, and libtpu is told that there is no TPU.

    Raises ValueError without libtpu, and for a topology that it does not know.
    """
    generation = topology.partition(":")[0]
    if generation not in MEMORY or not re.fullmatch(r"[^:]+:\d+(x\d+)+", topology):
        raise ValueError(f"--compile-for {topology!r} is not of the form v5e:2x4; generations are {', '.join(MEMORY)}")
    os.environ |= _NO_TPU | {"TPU_ACCELERATOR_TYPE": f"{generation}-8"}
    jax.config.update("jax_platforms", "cpu")  # what is computed here is so on the CPU
    from jax.experimental import topologies

    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except (RuntimeError, ValueError) as error:  # of jax without libtpu, or of libtpu
        first = str(error).splitlines()[0]
        raise ValueError(
            f"--compile-for {topology}: {first}; it needs libtpu: pip install 'jaxcompress[tpu]'"
        ) from error
    return Placement.of(found.devices, columns, width, MEMORY[generation])


def outlined(experiments: Sequence[config.Experiment], settings: runs.Settings) -> list[Cohort]:
    """Returns the cohorts of a sweep, whose stages before the last are not trained.

    States are begun once for all points that begin alike but for their numbers.
    """
    rehearsal = Rehearsal(lambda data: runs.dataset(data, settings.data_dir), settings.data_dir)
    programs: dict[str, list[config.Experiment]] = {}
    for experiment in experiments:
        if reason := cohorts.alone(experiment):
            raise ValueError(f"{experiment.stages[-1].name}: a stage that is run alone is not compiled ahead: {reason}")
        programs.setdefault(cohorts.signature(experiment), []).append(experiment)
    found = []
    for alike in programs.values():
        firsts = {_start(experiment): experiment for experiment in alike}
        begun = {start: rehearsal.started(experiment) for start, experiment in firsts.items()}
        groups: dict[Any, list[config.Experiment]] = {}
        for experiment in alike:
            groups.setdefault(cohorts.structure(begun[_start(experiment)][1]), []).append(experiment)
        for group in groups.values():
            plans, states = zip(*(begun[_start(experiment)] for experiment in group), strict=True)
            found.append(Cohort.outline(group, plans[0], states))
    return found


def compile_for(cohort: Cohort, placement: Placement, say: Callable[[str], None]) -> Compiled:
    """Compiles a cohort for the devices of a placement, with as many points at a time as fit.

    Raises TooLarge, with the largest number of points that fits, if not even one point at a time does.
    """
    row = -(-len(cohort.experiments) // placement.rows)
    width = row if placement.width is None else min(placement.width, row)
    while True:
        made = _compiled(cohort, placement, width, say)
        if made is not None:
            return made
        if width == 1 or placement.width is not None:
            fits = _largest(cohort, placement, width, say)
            raise TooLarge(f"{len(cohort.experiments)} points do not fit; {fits} do, {width} at a time on each row")
        width = -(-width // 2)


def _start(experiment: config.Experiment) -> str:
    """Returns what the structure of a first state follows from: all that is not traced."""
    roles = config.roles(experiment)
    return repr({place: value for place, value in config.values(experiment).items() if roles[place] != "traced"})


def _compiled(cohort: Cohort, placement: Placement, width: int, say: Callable[[str], None]) -> Compiled | None:
    """Compiles a cohort; returns None if it needs more memory than there is."""
    count = len(cohort.experiments)
    try:
        with compiling_for("tpu"):
            program = compiled(cohort, placement, width)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        say(f"{count} points, {width} at a time on each row: {str(error).partition(': ')[2].splitlines()[0]}")
        return None
    needs, sizes, costs = bytes_of(program), program.memory_analysis(), program.cost_analysis() or {}
    if needs > placement.memory:
        say(f"{count} points, {width} at a time on each row: {needs:,} bytes of {placement.memory:,}")
        return None
    flops, moved, seconds = (float(costs.get(name, 0.0)) for name in ("flops", "bytes accessed", "optimal_seconds"))
    seconds %= 1  # the compiler's sum has -1 for what it does not know the time of, such as a loop
    return Compiled(count, width, needs, sizes.argument_size_in_bytes, sizes.temp_size_in_bytes, flops, moved, seconds)


def _largest(cohort: Cohort, placement: Placement, width: int, say: Callable[[str], None]) -> int:
    """Returns the largest number of points that fits, looked for near what two small numbers let expect."""
    row = placement.rows * width
    one, two = (_compiled(cohort.first(count * row), placement, width, say) for count in (1, 2))
    if one is None or two is None:
        return 0 if one is None else row
    fits, fails = 2, -(-len(cohort.experiments) // row)
    expected = 2 + (placement.memory - two.memory) // max(1, two.memory - one.memory)
    tries = [expected, expected + 1, expected - 1]
    while fails - fits > 1:
        rows = tries.pop(0) if tries else (fits + fails) // 2
        if not fits < rows < fails:
            continue
        if _compiled(cohort.first(rows * row), placement, width, say) is None:
            fails = rows
        else:
            fits = rows
    return fits * row
