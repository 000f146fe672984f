"""The scenarios: what is run, in what state the pool is, and what the others in it do meanwhile."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scenario:
    """One way of a build.

    Attributes:
        name: What it is called on the command line.
        kind: Its class, for the sample of `--quick`: run, wait, give-up, nested, library, library-wait.
        options: Of slot-run; of the library the name of the function in `subject`, alone.
        stage: The state of the pool at its start: see `cast.Stage`.
        command: What the command does at its end: its exit status, or a signal's name. None: there is none.
        release: When the slot that somebody holds is let go: "asleep", when the process under test sleeps in
            line, "told", when it has also said that it waits, or "", after its end.
        journal: Whether the journal is on.
        refuses: Whether it gives up at its timeout: without a slot it may run only if the pool fails before.
        where_nested: The number of the slot that it runs under, if it is nested.
    """

    name: str
    kind: str
    options: tuple[str, ...]
    stage: str = "used"
    command: str | None = "0"
    release: str = ""
    journal: bool = False
    refuses: bool = False
    where_nested: str | None = None

    @property
    def is_library(self) -> bool:
        """Whether the process under test is a Python program."""
        return self.kind.startswith("library")

    @property
    def group(self) -> tuple[object, ...]:
        """What decides about the promises: where it is the same, the same calls are tried once."""
        return self.is_library, self.refuses, self.where_nested, self.stage == "new"


ONE = ("-n1",)
SHORT = "0.2"
"""Seconds of a timeout that is to be over: long enough that the process is in line by then, under strace."""

SCENARIOS = (
    Scenario("free", "run", ONE),
    Scenario("journal", "run", ONE, journal=True),
    Scenario("new-pool", "run", ONE, stage="new"),
    Scenario("new-journal", "run", ONE, stage="new", journal=True),
    Scenario("named-pool", "run", (*ONE, "-p", "link"), stage="new"),
    Scenario("group", "run", ONE, stage="group"),
    Scenario("dead-ticket", "run", ONE, stage="dead"),
    Scenario("beside", "run", ("-n2",), stage="held"),
    Scenario("weight", "run", ("-n2", "-w2")),
    Scenario("exit-3", "run", ONE, command="3"),
    Scenario("killed", "run", ONE, command="USR1"),
    Scenario("not-found", "run", ONE, command=None),
    Scenario("head", "wait", ONE, stage="held", release="asleep"),
    Scenario("told", "wait", ONE, stage="held", release="told"),
    Scenario("head-journal", "wait", ONE, stage="held", release="asleep", journal=True),
    Scenario("head-group", "wait", ONE, stage="group-held", release="asleep"),
    Scenario("second", "wait", ONE, stage="line", release="asleep"),
    Scenario("head-weight", "wait", ("-n2", "-w2"), stage="held", release="asleep"),
    Scenario("overflow-at-once", "wait", (*ONE, "-t0"), stage="held"),
    Scenario("timeout-run", "wait", (*ONE, "-t", SHORT), stage="held"),
    Scenario("timeout-paced", "wait", (*ONE, "-t", SHORT, "--on-timeout=paced"), stage="held"),
    Scenario("timeout-second", "wait", (*ONE, "-t", SHORT), stage="line"),
    Scenario("timeout-fail", "give-up", (*ONE, "-t", SHORT, "--on-timeout=fail"), stage="held", refuses=True),
    Scenario("fail-at-once", "give-up", (*ONE, "-t0", "--on-timeout=fail"), stage="held", refuses=True),
    Scenario(
        "fail-journal",
        "give-up",
        (*ONE, "-t", SHORT, "--on-timeout=fail"),
        stage="held",
        journal=True,
        refuses=True,
    ),
    # Nested it runs at once: that it has to give up tells one which took itself for not nested.
    Scenario("nested", "nested", (*ONE, "-t", SHORT, "--on-timeout=fail"), stage="outer", where_nested="0"),
    Scenario("py-acquire", "library", ("acquire",)),
    Scenario("py-journal", "library", ("acquire",), journal=True),
    Scenario("py-with", "library", ("with_block",)),
    Scenario("py-new-pool", "library", ("with_block",), stage="new"),
    Scenario("py-group", "library", ("with_block",), stage="group"),
    Scenario("py-raises", "library", ("raises",)),
    Scenario("py-try", "library", ("try_acquire",)),
    Scenario("py-forgotten", "library", ("forgotten",)),
    Scenario("py-weight", "library", ("weight",)),
    Scenario("py-within", "library", ("within",)),
    Scenario("py-async", "library", ("acquire_async",)),
    Scenario("py-nested", "library", ("fails",), stage="outer", where_nested="0"),
    Scenario("py-waits", "library-wait", ("acquire",), stage="held", release="asleep"),
    Scenario("py-with-waits", "library-wait", ("with_block",), stage="held", release="asleep"),
    Scenario("py-async-waits", "library-wait", ("acquire_async",), stage="held", release="asleep"),
    Scenario("py-overflow", "library-wait", ("overflow",), stage="held"),
    Scenario("py-fails", "library-wait", ("fails",), stage="held", refuses=True),
    Scenario("py-try-in-vain", "library-wait", ("try_acquire",), stage="held", refuses=True),
)
