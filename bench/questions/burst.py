"""Are there ever more builds than slots when many come at the same moment?"""

from __future__ import annotations

from bench.kit.question import (
    SLOTS,
    CommandCase,
    CommandQuestion,
    LibraryCase,
    LibraryQuestion,
    Measure,
    Values,
)
from bench.kit.spans import over
from bench.questions.order import arrive

COUNT, HOLD_S = 40, 0.05


def commands(case: CommandCase) -> Values:
    """All at once."""
    slots = case.slots()
    with case.crowd(slots) as crowd:
        arrive(lambda who: crowd.start_recorder(who, HOLD_S), case.setting.contenders, 0.0)
        return {"over": over(crowd.ended(), slots)}


def library_calls(case: LibraryCase) -> Values:
    """The same of library calls."""
    with case.workers(SLOTS, HOLD_S) as workers:
        workers.begin()
        workers.wait()
        return {"over": over(workers.spans(), SLOTS)}


COMMANDS = CommandQuestion(
    name="burst",
    run=commands,
    contenders=(COUNT,),
    quick_contenders=(COUNT,),
    measures=(
        Measure("over", "over the cap", f"Over-admission: {COUNT} commands start at once on {SLOTS} slots"),
    ),
)
LIBRARIES = LibraryQuestion(
    name="burst",
    run=library_calls,
    slots=SLOTS,
    contenders=(COUNT,),
    quick_contenders=(COUNT,),
    repetitions=5,
    measures=(Measure("over", "over the cap", f"Over-admission: {COUNT} library calls at once"),),
)
