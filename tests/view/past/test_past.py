"""`buildslots history`, `trace` and `report`: what they make of the journal."""

from __future__ import annotations

import functools
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from browsers import browse
from builds import Pool, script, wait_until

from buildslots.disk import records
from buildslots.settings import resolve
from buildslots.settings.places import state_dir
from buildslots.view.past import builds as module
from buildslots.view.past.advice import Machine, advice
from buildslots.view.past.builds import Build, Past, past
from buildslots.view.past.figures import figures, spread, stretches

if TYPE_CHECKING:
    from terminals import Terminal

NOW = 1_000_000.0


def build(number: int, **known: Any) -> Build:
    """A build that ended, unless more is known: in slot 0 of 2, from NOW - 100 for 10 s."""
    values: dict[str, Any] = {"cap": 2, "slot": 0, "started_at": NOW - 100, "ran_s": 10.0, "waited_s": 0.0}
    values |= {"status": 0, "outcome": "ended"} | known
    if values["outcome"] == "ended":
        values.setdefault("ended_at", values["started_at"] + values["ran_s"])
    return Build(str(number), "default", "/pool", 4711, "make", "/home/me", **values)


HERE = {
    name: value
    for name, value in (records.parse(records.record(records.about([], cap=1, nonce=""))) or {}).items()
    if name in ("host", "pidns")
}
"""What a line says of where its pid counts: here."""


def line(event: str, t: float, **fields: Any) -> bytes:
    """A line of the journal, of the build "a" unless `id` says otherwise."""
    common = {
        "v": 1,
        "t": t,
        "event": event,
        "id": "a",
        "pool": "default",
        "dir": "/pool",
        "pid": 2**30,
        **HERE,
    }
    text = json.dumps(common | {"program": "make", "cwd": "/home/me"} | fields, separators=(",", ":"))
    return text.encode() + b"\n"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A directory for a journal."""
    directory = tmp_path / "state"
    directory.mkdir()
    return directory


def told(state: Path, *lines: bytes, period_s: float | None = None, pool: str | None = None) -> Past:
    """The past of a journal with `lines`."""
    (state / "journal.jsonl").write_bytes(b"".join(lines))
    return past(pool, period_s, NOW, str(state))


# What the journal tells of one build.


@pytest.mark.parametrize(
    ("lines", "outcome"),
    [
        ([line("queued", 1), line("started", 2), line("ended", 3, ran_s=1, status=0)], "ended"),
        ([line("ended", 3, ran_s=1, status=0)], "ended"),
        ([line("queued", 1), line("gave_up", 2, cause="timeout")], "gave up"),
        ([line("queued", 1), line("gave_up", 2, cause="interrupted")], "interrupted"),
        ([line("degraded", 1, cause="full")], "degraded"),
        ([line("queued", 1), line("degraded", 2, cause="full")], "degraded"),
        ([line("queued", 1)], "lost"),
        ([line("started", 1)], "lost"),
        ([line("queued", 1, pid=os.getpid())], "lost"),
        ([line("queued", time.time(), pid=os.getpid())], "waiting"),
        ([line("started", time.time(), pid=os.getpid())], "running"),
        ([line("started", time.time(), pid=os.getpid(), start="1")], "lost"),
        ([line("started", time.time(), pid=os.getpid(), host="another")], "lost"),
    ],
)
def test_what_became_of_a_build(state: Path, lines: list[bytes], outcome: str) -> None:
    """Also when a line is missing, and when its process lives, or another one has its number."""
    (shown,) = told(state, *lines).builds
    assert shown.outcome == outcome


def test_fields(state: Path) -> None:
    """Each event adds what it knows."""
    (shown,) = told(
        state,
        line("queued", 1, cap=3),
        line("fell_through", 121, slot=3, waited_s=120, cap=3, load=2.5),
        line("ended", 221, slot=3, ran_s=100, status=-9, cpu_s=250.5, max_rss=2**31, tokens_max=3),
    ).builds
    assert (shown.queued_at, shown.started_at, shown.ended_at) == (1, 121, 221)
    assert (shown.cap, shown.slot, shown.overflow, shown.status) == (3, 3, True, -9)
    assert (shown.waited_s, shown.ran_s, shown.program, shown.cwd) == (120, 100, "make", "/home/me")
    assert (shown.cpu_s, shown.max_rss, shown.tokens_max) == (250.5, 2**31, 3)
    assert shown.wait_between(NOW) == (1, 121)
    assert shown.run_between(NOW) == (121, 221)


def test_older_files_are_read_first(state: Path) -> None:
    """A build may have begun in one that was put aside."""
    (state / "journal-2.jsonl").write_bytes(line("started", 2))
    (state / "journal-10.jsonl").write_bytes(line("ended", 3, ran_s=1, status=7))
    (state / "journal-x.jsonl").write_bytes(line("queued", 1, id="not ours"))
    (shown,) = told(state).builds
    assert (shown.started_at, shown.status) == (2, 7)


def test_period_and_pool(state: Path) -> None:
    """What ended before the period, or in another pool, is not shown; what reaches into it is."""
    lines = [
        line("started", NOW - 50, id="early"),
        line("ended", NOW - 40, id="early", ran_s=10, status=0),
        line("started", NOW - 50, id="reaches"),
        line("ended", NOW - 5, id="reaches", ran_s=45, status=0),
        line("started", NOW - 5, id="other", pool="link", load=3),
    ]
    assert [b.id for b in told(state, *lines, period_s=10).builds] == ["reaches", "other"]
    assert [b.id for b in told(state, *lines, period_s=10, pool="default").builds] == ["reaches"]
    whole = told(state, *lines)
    assert (len(whole.builds), whole.since, whole.until) == (3, NOW - 50, NOW)
    assert whole.loads == ((NOW - 5, 3.0),)
    assert told(state, *lines, period_s=10).since == NOW - 10
    assert told(state, *lines, period_s=1000).since == NOW - 50


def test_a_torn_line_costs_no_other(state: Path) -> None:
    """The disk was full: the next line stands behind the beginning of this one."""
    whole = line("started", 1, id="b", program='{"v":1,')
    for length in range(len(whole)):
        text = line("started", 1) + whole[:length] + line("ended", 3, ran_s=2, status=5)
        (shown, *_) = told(state, text).builds
        assert (shown.outcome, shown.status) == ("ended", 5), text


@pytest.mark.parametrize(
    "text",
    [
        b"", b"\n", b"\0" * 5000, b"{", b"[" * 100_000, b'{"v":1,' * 5000, b"1\n2\nnull\n[]\n{}\n",
        b"\xff" * 9000, line("started", -1), line("started", float("nan")), line("started", 10**400),
        line("started", 1, pid="1"), line("started", 1, pid=True),
        line("started", 1, id=5), line("started", 1, dir=None), line("started", 1, program=None),
        line("started", 1, pool="a b"), line("started", 1, v=2), line("unheard of", 1), line("started", True),
    ],
)  # fmt: skip
def test_what_is_no_line_is_passed_over(state: Path, text: bytes) -> None:
    """Bytes of any kind, and JSON that says what no event says."""
    assert told(state, text).builds == ()
    assert [shown.id for shown in told(state, text, b"\n", line("started", 1)).builds] == ["a"]


@pytest.mark.parametrize("value", [None, -1, "1", True, [], {}, 1e300, float("nan"), 10**400])
def test_hostile_values_count_as_unknown(state: Path, value: object) -> None:
    """No field breaks what is made of it."""
    names = ("slot", "waited_s", "cap", "load", "ran_s", "status", "cause", "batch", "priority")
    names += ("cpu_s", "max_rss", "tokens_max")
    hostile = dict.fromkeys(names, value)
    shown = told(
        state, line("queued", 1, **hostile), line("started", 2, **hostile), line("ended", 3, **hostile)
    )
    its = figures(shown.builds, shown.since, shown.until)
    assert (its.builds, its.cores, its.max_rss.max, its.tokens_max) == (1, None, None, None)


def test_no_journal(pool: Pool) -> None:
    """There is nothing to tell, which is no error."""
    result = pool.run(script("buildslots"), "history")
    assert (result.returncode, result.stdout) == (0, "The journal has no builds of this time.\n")
    assert json.loads(pool.run(script("buildslots"), "history", "--json").stdout)["pools"] == []


# What it comes to.


def test_spread() -> None:
    """Nearest rank: each figure is one that was measured."""
    shown = spread([float(n) for n in range(1, 21)] + [None])
    assert (shown.p50_s, shown.p95_s, shown.max_s) == (10, 19, 20)
    assert spread([7.0]) == spread([None, 7.0])
    assert spread([None]).max_s is None


def test_stretches_and_peak() -> None:
    """An end and a start at one moment are no overlap."""
    builds = [
        build(1, started_at=NOW - 100, ran_s=10.0),
        build(2, started_at=NOW - 90, ran_s=20.0),
        build(3, started_at=NOW - 85, ran_s=5.0, slot=1),
        build(4, started_at=NOW - 10, outcome="running", ran_s=None, status=None),
        build(5, started_at=NOW - 60, outcome="lost", ran_s=None, status=None),
    ]
    assert stretches(builds, NOW) == [
        (NOW - 100, NOW - 90, 1, 1, 2),
        (NOW - 90, NOW - 85, 1, 1, 2),
        (NOW - 85, NOW - 80, 2, 2, 2),
        (NOW - 80, NOW - 70, 1, 1, 2),
        (NOW - 10, NOW, 1, 1, 2),
    ]
    its = figures(builds, NOW - 95, NOW)
    assert (its.peak, its.full_s, its.busy_s, its.period_s) == (2, 5, 35, 95)
    assert (its.builds, its.started, its.lost) == (5, 5, 1)


def test_counts() -> None:
    """Each kind of outcome is counted as what it is."""
    its = figures(
        [
            build(1, queued_at=NOW - 110, waited_s=10.0),
            build(2, overflow=True, slot=2, queued_at=NOW - 220, waited_s=120.0, status=1),
            build(3, outcome="gave up", started_at=None, slot=None, queued_at=NOW - 30, ended_at=NOW),
            build(4, outcome="interrupted", started_at=None, slot=None, queued_at=NOW - 30, ended_at=NOW),
            build(5, outcome="degraded", slot=None),
        ],
        NOW - 200,
        NOW,
    )
    assert (its.builds, its.started, its.queued) == (5, 2, 4)
    assert (its.fell_through, its.gave_up, its.interrupted, its.degraded, its.failed) == (1, 1, 1, 1, 1)


def test_what_they_used() -> None:
    """Cores by how long each ran; what says only one of both, or took no time, counts for neither."""
    its = figures(
        [
            build(1, ran_s=90.0, cpu_s=270.0, max_rss=300),
            build(2, ran_s=10.0, cpu_s=0.0, max_rss=100, tokens_max=0),
            build(3, ran_s=0.0, cpu_s=1e10, max_rss=200, tokens_max=3),
            build(4, ran_s=50.0),
            build(5, ran_s=None, cpu_s=5.0, outcome="lost"),
        ],
        NOW - 200,
        NOW,
    )
    assert (its.measured, its.cores) == (4, 2.7)
    assert (its.max_rss.p50, its.max_rss.p95, its.max_rss.max) == (200, 300, 300)
    assert (its.with_tokens, its.tokens_max) == (2, 3)


def test_tasks_of_a_batch_are_of_one_kind() -> None:
    """Whatever they are called, in whichever run; an ID that is none of ours is its own name."""
    ids = ("install-20261129-204512", "install-20261130-204512.2", "my-own", "a-b-20261129-204512", "-", "")
    assert [build(n, batch=text).kind for n, text in enumerate(ids)] == [
        *(("install", ""), ("install", ""), ("my-own", ""), ("a-b", ""), ("-", ""), ("", "make"))
    ]


# Advice.


GIB = 2**30


def advised(
    *builds: Build,
    loads: tuple[tuple[float, float], ...] = (),
    slots: int = 2,
    cores: int = 8,
    memory: int | None = 16 * GIB,
) -> str:
    settings = resolve(slots=slots, dir="/pool", warn=pytest.fail)
    return advice(Past(NOW - 86400, NOW, builds, loads), settings, Machine(cores, memory))


def full(count: int = 20, **known: Any) -> list[Build]:
    """So many builds, two at once, of 100 s each; all but the first two had to wait."""
    start = NOW - 10_000
    return [
        build(
            n,
            **{"slot": n % 2, "ran_s": 100.0, "waited_s": 100.0 * (n // 2), **known},
            started_at=start + 100 * (n // 2),
            queued_at=start if n > 1 else None,
        )
        for n in range(count)
    ]


def loaded(load: float) -> tuple[tuple[float, float], ...]:
    """The load while the builds of `full` ran."""
    return tuple((NOW - 9900 + 10 * n, load) for n in range(80))


def test_advice_on_a_timeout_that_is_too_short() -> None:
    """The runs outlast it: the paragraph says by how much to raise it."""
    late = {"overflow": True, "slot": 2, "queued_at": NOW - 220, "waited_s": 120.0}
    text = advised(*[build(n, **late, ran_s=500.0) for n in range(6)], *[build(n) for n in range(6, 12)])
    assert text.startswith("6 builds ran as overflow; 50% of the runs outlast the timeout of 2 min 0 s")
    assert 'raise the timeout to 20m (`timeout = "20m"`' in text


def test_advice_on_giving_up() -> None:
    """A build that gave up counts like one that fell through."""
    gone = build(1, outcome="gave up", started_at=None, queued_at=NOW - 60, ended_at=NOW, waited_s=60.0)
    assert advised(gone, build(2)) == "1 build gave up at the timeout of 1 min 0 s."


@pytest.mark.parametrize(
    ("load", "said"),
    [
        (2.0, "the load was 2.0 on 8 cores: there is room for more; try MAX_CONCURRENT_BUILDS=3."),
        (20.0, "the load was 20.0 on 8 cores: too much; try MAX_CONCURRENT_BUILDS=1"),
        (8.0, "Nothing to change: 2 of 4 builds had to wait, at most 20 s, and none ran as overflow."),
    ],
)
def test_advice_on_the_cap(load: float, said: str) -> None:
    """With all slots held, an idle machine has room for more and a crowded one for less."""
    start = NOW - 1000
    builds = [build(n, started_at=start, ran_s=900.0) for n in range(2)]
    builds += [
        build(n, queued_at=start, started_at=start + 900, waited_s=20.0, ran_s=5.0) for n in range(2, 4)
    ]
    loads = tuple((start + 70 + n, load) for n in range(20))
    text = advised(*builds, loads=loads).removeprefix("While all slots were held ")
    assert (
        text.removesuffix(", or `--tokens`, which bounds all their jobs (`buildslots help tokens`).") == said
    )
    too_young = tuple((start + n, load) for n in range(20))
    assert advised(*builds, loads=too_young).startswith("Nothing to change")


def test_advice_rests_on_the_cap_of_the_builds() -> None:
    """Not on that of who looks: to those who build one at a time "set 1" says nothing."""
    start = NOW - 1000
    builds = [build(n, cap=1, queued_at=start, started_at=start + 300 * n, ran_s=300.0) for n in range(3)]
    crowded, idle = (tuple((start + 70 + n, load) for n in range(20)) for load in (30.0, 1.0))
    assert "too much" not in advised(*builds, loads=crowded, slots=2)
    assert advised(*builds, loads=idle, slots=5).endswith("try MAX_CONCURRENT_BUILDS=2.")


@pytest.mark.parametrize(
    ("used", "load", "said"),
    [
        (1.2, None, "2 at once 2.4 of 8 cores: there is room for more; try MAX_CONCURRENT_BUILDS=4."),
        (1.2, 3.0, "and the load was 3.0 while all slots were held: there is room for more; try MAX_"),
        (2.5, None, "2 at once 5.0 of 8 cores: there is room for more; try MAX_CONCURRENT_BUILDS=3."),
        (0.0, None, "2 at once 0.0 of 8 cores: there is room for more; try MAX_CONCURRENT_BUILDS=4."),
        (1.2, 7.0, "load was 7.0 while all slots were held: the rest goes to other programs, or builds wait"),
        (
            1.2,
            20.0,
            "load was 20.0 while all slots were held: the rest goes to other programs, or builds wait",
        ),
        (
            3.8,
            8.0,
            "2 at once 7.6 of 8 cores, and the load was 8.0 while all slots were held: the machine is busy",
        ),
        (3.8, 20.0, "load was 20.0 while all slots were held: too much; try MAX_CONCURRENT_BUILDS=1"),
        (
            7.0,
            None,
            "2 at once 14.0 of 8 cores: the machine is busy, and more at once would make each slower",
        ),
    ],
)
def test_advice_on_the_cap_rests_on_what_builds_use(used: float, load: float | None, said: str) -> None:
    """On the load only where that is worse: it counts what others do."""
    text = advised(*full(cpu_s=100 * used), loads=() if load is None else loaded(load))
    assert f"Builds use {used:.1f} cores each, 2 at once " in text
    assert said in text


def test_builds_that_have_to_share_cores_do_not_ask_for_more_of_them() -> None:
    """They seem to need few; so the load of all times counts where none was noted in a full minute."""
    builds = full(cpu_s=30.0)
    before, early = NOW - 10_000, "Builds use 0.3 cores each, 2 at once 0.6 of 8 cores, and the load was "
    busy, idle = (advised(*builds, loads=tuple((before + n, load) for n in range(20))) for load in (9.0, 1.0))
    assert f"{early}9.0: the rest goes to other programs" in busy
    assert f"{early}1.0: there is room for more; try MAX_CONCURRENT_BUILDS=4." in idle


@pytest.mark.linux
def test_advice_on_jobs() -> None:
    """Where the machine has too much to do, fewer jobs help as fewer builds do."""
    crowded = loaded(20.0)
    assert "or `--tokens`, which bounds all their jobs" in advised(*full(), loads=crowded)
    assert "or fewer tokens" in advised(*full(tokens_max=3), loads=crowded)


def test_few_builds_are_no_reason_for_advice() -> None:
    """What they used is not told then."""
    heavy = {"cpu_s": 120.0, "max_rss": 10 * GIB}
    assert "cores each" in advised(*full(20, **heavy | {"max_rss": None}))
    assert "GiB" in advised(*full(20, **heavy))
    text = advised(*full(19, **heavy))
    assert "Too little is known of what builds use" in text
    assert "GiB" not in text


def test_advice_on_memory() -> None:
    """It comes before what could be said of cores, and whether anybody waits or not."""
    text = advised(*full(cpu_s=10.0, max_rss=19 * GIB // 2))
    assert text == (
        "One build in 20 needs 9.5 GiB or more, and 2 of these at once need 19.0 GiB of 16.0 GiB: try"
        " MAX_CONCURRENT_BUILDS=1, for these `--weight 2`, or `--min-free-memory 9.5G`."
    )
    alone = [build(n, started_at=NOW - 9000 + 100 * n, cap=6, max_rss=3 * GIB) for n in range(20)]
    assert "try MAX_CONCURRENT_BUILDS=5, for these `--weight 2`, or" in advised(*alone)
    for memory in (18 * GIB, None):
        assert advised(*alone, memory=memory).startswith("Nothing to change")
    odd = [*alone[1:], build(99, cap=6, max_rss=100 * GIB)]
    assert "One build in 20 needs 3.0 GiB" in advised(*odd)


def test_advice_on_memory_knows_weights() -> None:
    """Who takes several slots has the memory of several; whoever follows the advice gets it no more."""
    heavy = full(max_rss=19 * GIB // 2, weight=2, slots=(0, 1), cpu_s=10.0)
    assert "GiB" not in advised(*heavy)
    assert "needs 4.8 GiB a slot or more, and 2 of these at once need 9.5 GiB of 8.0 GiB" in advised(
        *heavy, memory=8 * GIB
    )


def test_memory_bounds_what_is_advised_for_idle_cores() -> None:
    """To three at once, or to no more than there are."""
    idle = functools.partial(full, cpu_s=10.0)
    assert "room for more; try MAX_CONCURRENT_BUILDS=3." in advised(*idle(max_rss=5 * GIB))
    assert "memory has no room for more. Only fewer or shorter" in advised(*idle(max_rss=7 * GIB))


def test_advice_for_a_pool_that_is_always_full() -> None:
    """Where nearly all had to wait, "nothing to change" is no answer, whatever the load tells."""
    start = NOW - 2300
    came = {"cap": 1, "queued_at": start, "ran_s": 100.0}
    builds = [build(n, **came, started_at=start + 100 * n, waited_s=100.0 * n) for n in range(23)]
    builds[0].queued_at = builds[1].queued_at = None
    waited = "21 of 23 builds had to wait, at most 36 min 40 s, and all slots were held for 100% of the time"
    assert advised(*builds).startswith(waited)
    assert "try MAX_CONCURRENT_BUILDS=2, and look again." in advised(*builds)
    busy = advised(*builds, loads=tuple((start + 70 + n, 8.0) for n in range(20)))
    assert busy.startswith(waited)
    assert busy.endswith("Only fewer or shorter builds help.")


def test_a_timeout_is_advised_by_what_builds_would_have_waited() -> None:
    """A line that was long once, behind long runs, is no reason for half an hour."""
    start = NOW - 80_000
    late = {"cap": 1, "overflow": True, "slot": 1, "waited_s": 120.0}
    builds = [
        build(n, cap=1, queued_at=start + 900 * n, started_at=start + 900 * n + 60, ran_s=60.0 + 4 * n)
        for n in range(80)
    ]
    builds += [
        build(100 + n, **late, queued_at=NOW - 3000 + n, started_at=NOW - 2880 + n, ran_s=150.0)
        for n in range(4)
    ]
    text = advised(*sorted(builds, key=lambda build: build.came_at), slots=1)
    assert "4 builds ran as overflow" in text
    assert "30m" not in text


def test_advice_on_failures() -> None:
    """The last cause is named."""
    text = advised(build(1, outcome="degraded", slot=None, cause="No space left on device"))
    assert text.startswith("1 build ran without a slot because the pool failed, the last one with 'No space")


@pytest.mark.parametrize("cause", ["full", ""])
def test_advice_on_failures_names_the_last_cause(cause: str) -> None:
    """Also if it is empty."""
    failed = [build(n, outcome="degraded", slot=None, cause=text) for n, text in enumerate(["first", cause])]
    assert f"2 builds ran without a slot because the pool failed, the last one with {cause!r}" in advised(
        *failed
    )


def test_no_advice_for_those_who_asked_not_to_wait() -> None:
    """A timeout of 0 is no timeout that is too short."""
    at_once = build(1, overflow=True, slot=2, waited_s=0.0001)
    assert advised(at_once, build(2)).startswith("Nothing to change")


def test_a_clock_that_was_set_back(state: Path) -> None:
    """A period is never negative."""
    shown = told(state, line("started", NOW + 3600), line("ended", NOW + 3700, ran_s=100, status=0))
    assert shown.since == shown.until == NOW
    assert figures(shown.builds, shown.since, shown.until).full_s == 0


def test_what_is_no_file_is_not_read(state: Path) -> None:
    """A device may have no end."""
    (state / "journal.jsonl").symlink_to("/dev/zero")
    (state / "journal-1.jsonl").write_bytes(line("started", 1))
    assert len(past(None, None, NOW, str(state)).builds) == 1


def test_a_rotation_while_one_reads(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was the newest file when the reading began is read, whatever it is called then."""
    listed = module.archives

    def rotate_first(directory: str) -> list[str]:
        (state / "journal.jsonl").rename(state / "journal-5.jsonl")
        return [path for path in listed(directory) if not path.endswith("-5.jsonl")]

    monkeypatch.setattr(module, "archives", rotate_first)
    assert len(told(state, line("started", 1)).builds) == 1


def test_nothing_to_advise() -> None:
    """That is said too; of another pool's builds nothing is."""
    assert advised(build(1)) == "Nothing to change: nobody had to wait, and none ran as overflow."
    assert advised() == ""


# Real builds.


@pytest.fixture
def eight(pool: Pool) -> Pool:
    """A pool in which eight builds ran on two slots, in two directories; one failed, one fell through."""
    (pool.dir.parent / "b<script>").mkdir()
    directories = [pool.dir.parent, pool.dir.parent / "b<script>"]
    builds = [pool.build("-n2", cwd=directory) for directory in directories]
    slots = sorted(build.started() for build in builds)
    builds += [pool.queued("-n2", cwd=directories[number % 2]) for number in range(5)]
    pool.slot_run("-n2", "-t", "0.1", "false", cwd=directories[0])
    for number, running in enumerate(builds):
        slots += [running.started()] if number >= 2 else []
        running.finish(number == 3)
    assert slots[:2] == ["0", "1"]
    return pool


def test_history_of_real_builds(eight: Pool) -> None:
    """Counts, peak and groups are those of what ran."""
    history = json.loads(eight.run(script("buildslots"), "history", "--json").stdout)
    (of_pool,) = history["pools"]
    assert (of_pool["pool"], of_pool["dir"]) == ("default", str(eight.dir))
    assert (of_pool["builds"], of_pool["started"], of_pool["queued"]) == (8, 8, 6)
    assert (of_pool["fell_through"], of_pool["failed"], of_pool["peak"]) == (1, 2, 3)
    assert 0 < of_pool["full_s"] <= of_pool["busy_s"] <= of_pool["period_s"]
    assert of_pool["wait"]["max_s"] >= 0.1
    assert {group["program"]: group["builds"] for group in of_pool["programs"]} == {"sh": 7, "false": 1}
    parent = str(eight.dir.parent)
    groups = {group["cwd"]: group["builds"] for group in of_pool["directories"]}
    assert groups == {parent: 5, f"{parent}/b<script>": 3}
    text = eight.run(script("buildslots"), "history").stdout
    assert "8 builds, 6 of them queued, 1 overflow, 2 failed" in text
    assert "at most 3 at once" in text
    assert "1 build ran as overflow" in text


TASKS = """from buildslots import build_slot, run_batch
for name in "install", "install", "audit":
    tasks = [{"run": ["sh", "-c", f"exit {n}"], "name": f"task <{n}>"} for n in range(3)]
    run_batch(tasks, name=name, jobs=2, fail="never")
with build_slot(label="task <1>"):
    pass
"""


@pytest.fixture
def batches(pool: Pool) -> Pool:
    """A pool in which three batches of three tasks each ran, two of them of one name; and a build."""
    result = pool.run(sys.executable, "-c", TASKS, environ={"MAX_CONCURRENT_BUILDS": "1"})
    assert (result.returncode, result.stderr) == (0, "")
    return pool


def test_history_of_batches(batches: Pool) -> None:
    """Their tasks count as builds, each batch with all of its runs is a group, and in no program."""
    (of_pool,) = json.loads(batches.run(script("buildslots"), "history", "--json").stdout)["pools"]
    assert (of_pool["builds"], of_pool["failed"], of_pool["peak"]) == (10, 6, 1)
    groups = [(group["batch"], group["builds"], group["failed"]) for group in of_pool["batches"]]
    assert groups == [("install", 6, 4), ("audit", 3, 2)]
    assert [len(group["ids"]) for group in of_pool["batches"]] == [2, 1]
    assert [(group["program"], group["builds"]) for group in of_pool["programs"]] == [("task <1>", 1)]
    text = batches.run(script("buildslots"), "history").stdout
    rows = text.partition("PROGRAM\n")[2].partition("\n\n")[0].splitlines()
    assert [(row.split()[0], row.split("  ")[-1]) for row in rows] == [
        *(("6", "batch install, 2 runs"), ("3", "batch audit"), ("1", "task <1>"))
    ]


def test_history_by_priority(pool: Pool) -> None:
    """If there are several; builds of the library are among them."""
    run = functools.partial(pool.run, script("buildslots"), "history")
    pool.slot_run("true")
    assert "PRIORITY" not in run().stdout
    program = "from buildslots import build_slot\nwith build_slot(priority='low'): pass"
    assert pool.run(sys.executable, "-c", program).returncode == 0
    for _ in range(2):
        pool.slot_run("--priority", "high", "true")
    (of_pool,) = json.loads(run("--json").stdout)["pools"]
    groups = [(group["priority"], group["builds"]) for group in of_pool["priorities"]]
    assert sorted(groups) == [("high", 2), ("low", 1), ("normal", 1)]
    rows = run().stdout.partition("PRIORITY\n")[2].partition("\n\n")[0].splitlines()
    assert (rows[0].split()[0], rows[0].split()[-1], len(rows)) == ("2", "high", 3)


def write_journal(pool: Pool, *lines: bytes) -> None:
    directory = Path(state_dir({**os.environ, **pool.environ}))
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "journal.jsonl").write_bytes(b"".join(lines))


def a_run(pool: Pool, number: int, **used: object) -> bytes:
    """The lines of a build of 50 s in that pool."""
    its = {"id": str(number), "dir": str(pool.dir), "slot": 0, "program": "make" if number % 2 else "tsc"}
    began = time.time() - 9000 + 100 * number
    end = line("ended", began + 50, **its, ran_s=50.0, status=0, **used)
    return line("started", began, **its, cap=2, waited_s=0.0) + end


def test_history_of_what_builds_used(pool: Pool) -> None:
    """On average and at most, of those that say it; where none does, the table has no columns for it."""
    run = functools.partial(pool.run, script("buildslots"), "history")
    lines = [a_run(pool, n, cpu_s=60.0 + 30 * (n % 2), max_rss=(n + 1) * GIB // 8) for n in range(20)]
    write_journal(pool, *lines, a_run(pool, 99))
    (of_pool,) = json.loads(run("--json").stdout)["pools"]
    assert (of_pool["measured"], of_pool["cores"]) == (20, 1.5)
    assert of_pool["max_rss"] == {"p50": 10 * GIB // 8, "p95": 19 * GIB // 8, "max": 20 * GIB // 8}
    found = {group["program"]: (group["cores"], group["max_rss"]["max"]) for group in of_pool["programs"]}
    assert found == {"make": (1.8, 20 * GIB // 8), "tsc": (1.2, 19 * GIB // 8)}
    text = run().stdout
    assert "\n1.5 cores each on average, processes of at most 2.5 GiB\n" in text
    table = text.partition("PROGRAM\n")
    assert table[0].splitlines()[-1].split()[-3:] == ["PEAK", "CORES", "MEMORY"]
    assert [row.split()[-4:] for row in table[2].splitlines()[:2]] == [
        ["1.8", "2.5", "GiB", "make"],
        ["1.2", "2.4", "GiB", "tsc"],
    ]
    write_journal(pool, a_run(pool, 1))
    (of_pool,) = json.loads(run("--json").stdout)["pools"]
    assert (of_pool["cores"], of_pool["max_rss"]["max"]) == (None, None)
    text = run().stdout
    assert "CORES" not in text
    assert " - " not in text


def test_history_in_a_narrow_terminal(eight: Pool, terminal: Terminal) -> None:
    """No row is wider than the terminal: names are cut and columns go, first what builds used."""
    for columns in (60, 80, 120, 160):
        terminal.resize(columns, 40)
        terminal.type_at_prompt(f"clear; {script('buildslots')} history")

        def fits(columns: int = columns) -> bool:
            heads = [line.split() for line in terminal.lines() if line.startswith("BUILDS ")]
            tells = [head[-1] for head in heads] == ["DIRECTORY", "PROGRAM"]
            return (
                tells
                and ("PEAK" in heads[0]) == (columns >= 120)
                and ("CORES" in heads[0]) == (columns == 160)
            )

        terminal.wait_until(fits, f"tables for {columns} columns")
        terminal.type_at_prompt("")


def test_history_tells_the_cap_of_the_builds(pool: Pool) -> None:
    """And that of who looks, if it is another one."""
    pool.slot_run("-n1", "true")
    run = functools.partial(pool.run, script("buildslots"), "history")
    assert "builds had a cap of 1; yours: 2" in run(environ={"MAX_CONCURRENT_BUILDS": "2"}).stdout
    assert "yours" not in run(environ={"MAX_CONCURRENT_BUILDS": "1"}).stdout


def test_history_of_one_pool_and_period(eight: Pool) -> None:
    """Nothing of another pool, nothing older; what cannot be is a usage error."""
    buildslots = functools.partial(eight.run, script("buildslots"), "history")
    assert "no builds" in buildslots("--pool", "link").stdout
    assert "8 builds" in buildslots("--pool", "default", "--since", "1d").stdout
    assert "8 builds" in buildslots("--since", "none").stdout
    for wrong in ("x", "-1", "1y", "d", ""):
        result = buildslots("--since", wrong)
        assert result.returncode == 2, wrong
        assert "is not a duration" in result.stderr
    assert buildslots("--pool", "a/b").returncode == 2


NUMBER = {"type": "number", "minimum": 0}
TRACE_SCHEMA = {
    # "Trace Event Format" (catapult, docs/trace-event-format.md): the object format, and of the events those
    # phases that a trace of ours has, each with the fields that it must have there.
    "type": "object",
    "required": ["traceEvents"],
    "properties": {
        "displayTimeUnit": {"enum": ["ms", "ns"]},
        "otherData": {"type": "object", "additionalProperties": {"type": "string"}},
        "traceEvents": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["ph", "name", "pid", "tid", "ts"],
                "properties": {
                    "name": {"type": "string"},
                    "cat": {"type": "string"},
                    "ts": NUMBER,
                    "dur": NUMBER,
                    "pid": {"type": "integer"},
                    "tid": {"type": "integer"},
                    "args": {"type": "object"},
                },
                "oneOf": [
                    {"properties": {"ph": {"const": "X"}}, "required": ["dur"]},
                    {
                        "properties": {
                            "ph": {"enum": ["b", "e"]},
                            "id2": {"type": "object", "required": ["local"]},
                        },
                        "required": ["cat", "id2"],
                    },
                    {"properties": {"ph": {"const": "i"}, "s": {"enum": ["g", "p", "t"]}}, "required": ["s"]},
                    {
                        "properties": {
                            "ph": {"const": "C"},
                            "args": {"additionalProperties": {"type": "number"}, "minProperties": 1},
                        },
                        "required": ["args"],
                    },
                    {
                        "properties": {
                            "ph": {"const": "M"},
                            "name": {
                                "enum": [
                                    "process_name",
                                    "process_labels",
                                    "process_sort_index",
                                    "thread_name",
                                    "thread_sort_index",
                                ]
                            },
                        },
                        "required": ["args"],
                    },
                ],
            },
        },
    },
}


def test_trace_of_real_builds(eight: Pool, tmp_path: Path) -> None:
    """By the format's rules: a row for each slot, in which no runs overlap; each wait begins and ends."""
    eight.dir.rename(tmp_path / "aside")
    eight.dir.write_text("in its place")
    eight.slot_run("true")  # degraded
    file = tmp_path / "trace.json"
    assert eight.run(script("buildslots"), "trace", "-o", str(file)).returncode == 0
    trace = json.loads(file.read_text())
    jsonschema.validate(trace, TRACE_SCHEMA)
    events = trace["traceEvents"]
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert names == {(1, 0): "line", (1, 1): "slot 0", (1, 2): "slot 1", (1, 3): "slot 2"}
    rows: dict[int, list[tuple[int, int]]] = {}
    for event in events:
        if event["ph"] == "X":
            rows.setdefault(event["tid"], []).append((event["ts"], event["ts"] + event["dur"]))
    assert sum(map(len, rows.values())) == 8
    for spans in rows.values():
        assert all(
            end <= begin for (_, end), (begin, _) in zip(sorted(spans), sorted(spans)[1:], strict=False)
        )
    begun = {e["id2"]["local"]: e["ts"] for e in events if e["ph"] == "b"}
    ended = {e["id2"]["local"]: e["ts"] for e in events if e["ph"] == "e"}
    assert begun.keys() == ended.keys()
    assert len(begun) == 6
    assert all(begun[key] <= ended[key] for key in begun)
    counts = [e["args"] for e in events if e["ph"] == "C" and e["name"] == "builds"]
    assert max(count["running"] for count in counts) == 3
    assert counts[-1] == {"running": 0, "waiting": 0}
    assert all(count >= 0 for both in counts for count in both.values())
    assert [e["args"]["outcome"] for e in events if e["ph"] == "i"] == ["degraded"]
    assert any(e["name"] == "load average" for e in events)
    assert eight.run(script("buildslots"), "trace").stdout.startswith('{"traceEvents":[')


def test_trace_of_batches(batches: Pool) -> None:
    """Each is a process with a track for each task, by its name, in which the wait is a part of the whole."""
    trace = json.loads(batches.run(script("buildslots"), "trace").stdout)
    jsonschema.validate(trace, TRACE_SCHEMA)
    events = trace["traceEvents"]
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert [re.sub(r"-\d{8}-\d{6}.*", "", names[process]) for process in sorted(names)] == [
        *("machine", "pool default", "batch install", "batch install", "batch audit")
    ]
    waits = 0
    for process in (2, 3, 4):
        tracks: dict[str, list[dict[str, Any]]] = {}
        for event in events:
            if event["pid"] == process and event["ph"] in "be":
                tracks.setdefault(event["id2"]["local"], []).append(event)
        assert sorted(track[0]["name"] for track in tracks.values()) == [f"task <{n}>" for n in range(3)]
        for track in tracks.values():
            phases = [(event["ph"], event["name"]) for event in track]
            name = track[0]["name"]
            waited = [("b", "waiting"), ("e", "waiting")] if len(phases) == 4 else []
            waits += len(waited) // 2
            assert phases == [("b", name), *waited, ("e", name)]
            assert [event["ts"] for event in track] == sorted(event["ts"] for event in track)
            assert {event["args"]["batch"] for event in track} == {names[process].removeprefix("batch ")}
    assert waits == len([e for e in events if e["ph"] == "b" and e["pid"] == 1]) > 0


@pytest.fixture
def page(eight: Pool, tmp_path: Path) -> str:
    """The document of the report of these builds, after its script has run in a browser."""
    file = tmp_path / "report.html"
    assert eight.run(script("buildslots"), "report", "-o", str(file)).returncode == 0
    return browse(file)


@pytest.mark.linux  # where the CI has a browser on its path
def test_report_in_a_browser(page: str) -> None:
    """It draws a lane for each slot, a bar for each run and each wait, the load, and the advice."""
    assert page.count('class="lane"') == 3 + 1
    bars = re.findall(r'<rect class="bar"[^>]*fill="var\(--(\w+)\)"', page)
    # Of builds that ended within the same pixel only the first is drawn; each wait has a row of its own.
    assert set(bars) == {"bad", "good", "wait"}
    assert (bars.count("wait"), len(bars) <= 6 + 8) == (6, True)
    assert page.count('class="load"') == 1
    assert "slot 2 (overflow)" in page
    assert re.search(r'class="advice">1 build ran as overflow', page)


def test_report_needs_no_network_and_takes_no_orders(eight: Pool) -> None:
    """Nothing in it names another file, and what builds are called stays text."""
    text = eight.run(script("buildslots"), "report", "-o", "-").stdout
    assert "default-src 'none'" in text
    assert not re.search(r"""(src|href)=|@import|url\(""", text)
    assert re.findall("https?://[^\"' ]+", text) == ["http://www.w3.org/2000/svg"]
    assert "b\\u003cscript>" in text
    assert "b<script>" not in text


def test_names_that_the_terminal_cannot_show(eight: Pool) -> None:
    """A question mark, and no traceback; the page is UTF-8 all the same."""
    directory = eight.dir.parent / "dir-\u65e5\u672c"
    directory.mkdir()
    eight.slot_run("true", cwd=directory)
    narrow = {"PYTHONIOENCODING": "ascii"}
    for command in (["history"], ["status"], ["doctor"], ["trace"]):
        result = eight.run(script("buildslots"), *command, environ=narrow)
        assert "Traceback" not in result.stderr
    assert "dir-??" in eight.run(script("buildslots"), "history", environ=narrow).stdout
    page = eight.run(script("buildslots"), "report", "-o", "-", environ=narrow).stdout
    assert "\\u65e5" in page


def test_without_a_stdout(eight: Pool) -> None:
    """Closed by whoever started us: nothing is said, and nothing breaks."""
    for command in ("status", "history", "trace", "doctor"):
        result = eight.run("sh", "-c", f"{script('buildslots')} {command} >&-")
        assert "Traceback" not in result.stderr


def test_a_build_that_runs_and_one_that_waits(pool: Pool) -> None:
    """What has not ended yet is part of the past as well."""
    pool.build("-n1").started()
    pool.queued("-n1")

    def trace() -> list[dict[str, Any]]:
        return json.loads(pool.run(script("buildslots"), "trace").stdout)["traceEvents"]  # type: ignore[no-any-return]

    wait_until(lambda: [e for e in trace() if e["ph"] == "b"], "the wait in the journal")
    outcomes = {e["ph"]: e["args"]["outcome"] for e in trace() if e["ph"] in "Xb"}
    assert outcomes == {"X": "running", "b": "waiting"}
