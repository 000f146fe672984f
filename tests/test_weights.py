"""Builds that need several slots: they take them together, in their turn."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest
from builds import DEADLINE_S, Pool, script
from strays import DAEMON, Strays

import buildslots
from buildslots import SlotPool, UnthrottledWarning, build_slot
from buildslots.disk import records
from buildslots.journal import NAME
from buildslots.settings.places import state_dir
from buildslots.view.past.builds import past
from buildslots.view.past.report import page
from buildslots.view.past.trace import trace

if TYPE_CHECKING:
    from collections.abc import Iterator

K = 4
PROCESSES, EACH = 20, 50
WORKER = """
import os, random, sys
from buildslots.disk import sleepers
from buildslots.admission import Admission
from buildslots.settings import resolve
sleepers.IDLE_S = 1000.0  # on a busy machine somebody may look asleep, and is overtaken: no matter here
log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
chance = random.Random(int(sys.argv[2]))
settings = resolve(slots=int(sys.argv[3]), timeout_s=None, warn=print)
for _ in range(int(sys.argv[4])):
    weight = chance.randint(1, settings.slots)
    admission = Admission(settings.replace(weight=weight), ["worker"])
    slot = admission.acquire()
    # Still in line, so that nobody who came later can have started.
    number = admission._place._ticket.name[:20] if admission._place else "-"
    os.write(log, f"start {len(slot._hold.numbers)} {weight} {number}\\n".encode())
    admission.started(slot)
    os.write(log, f"end {weight} {weight} -\\n".encode())
    slot.release()
"""


def test_a_thousand_random_weights(pool: Pool) -> None:
    """Never more than K slots at once and all of them at times, in the order of arrival; all end."""
    log = pool.dir.parent / "log"
    log.touch()
    args = [str(log), "{}", str(K), str(EACH)]
    workers = [
        pool.popen(sys.executable, "-c", WORKER, *(arg.format(seed) for arg in args), stdout=None)
        for seed in range(PROCESSES)
    ]
    assert [(worker.process.wait(4 * DEADLINE_S), worker.errors()) for worker in workers] == [
        (0, "") for _ in workers
    ]
    held, peak, starts, numbers = 0, 0, 0, []
    for line in log.read_text().splitlines():
        what, slots, weight, number = line.split()
        assert slots == weight
        held += int(weight) if what == "start" else -int(weight)
        peak = max(peak, held)
        starts += what == "start"
        numbers += [number] if number != "-" else []
    assert (held, peak, starts) == (0, K, PROCESSES * EACH)
    assert numbers == sorted(numbers)
    assert len(numbers) > starts / 2, "hardly anybody had to wait"
    assert (pool.held(), pool.leftovers()) == ([], [])


def test_slots_are_taken_and_released_together(pool: Pool) -> None:
    """The lowest free ones, and one release frees them all, with no descriptor left."""
    before = set(os.listdir("/dev/fd"))
    four = SlotPool(slots=4)
    one = four.acquire()
    with four.acquire(weight=2) as two:
        assert (two.number, two.weight, two.overflow, len(two.descriptors)) == (1, 2, False, 4)
        assert four.status().held == 3
        assert four.try_acquire(weight=2) is None
        assert [h.slots for h in four.status().holders] == [(0,), (1, 2)]
    one.release()
    assert (pool.held(), set(os.listdir("/dev/fd"))) == ([], before)


def test_a_killed_build_frees_them_all(pool: Pool) -> None:
    """And the head of the line, which needs as many, starts."""
    heavy = pool.popen(
        script("slot-run"), "-n2", "-w2", "sh", "-c", "echo up; read line", start_new_session=True
    )
    assert heavy.started() == "up"
    waiter = pool.queued("-n2", "-w2")
    os.killpg(heavy.pid, signal.SIGKILL)
    assert waiter.started() == "0"
    assert waiter.finish() == 0


def test_a_heavy_build_keeps_its_place(pool: Pool) -> None:
    """A lighter one behind it does not take the slot that is free."""
    first = pool.build("-n2")
    first.started()
    heavy, light = pool.queued("-n2", "-w2"), pool.queued("-n2")
    assert [(w.pid, w.cap, w.weight) for w in pool.status().waiters] == [(heavy.pid, 2, 2), (light.pid, 2, 1)]
    assert SlotPool(slots=2).try_acquire() is None
    first.finish()
    assert heavy.started() == "0"
    assert not light.is_started()
    heavy.finish()
    assert light.started() == "0"
    light.finish()


def test_more_than_all_are_all(pool: Pool) -> None:
    """With a note, on the command line and in Python."""
    result = pool.slot_run("-n2", "-w9", "--", "sh", "-c", "echo $BUILD_SLOT")
    note = "weight 9 is more than the pool's 2 slots: it takes them all"
    assert (result.returncode, result.stdout, result.stderr) == (0, "0\n", f"slot-run: {note}\n")
    with pytest.warns(RuntimeWarning, match=note) as caught, SlotPool(slots=2).acquire(weight=9) as slot:
        assert slot.weight == 2
    assert caught[0].filename == __file__


@pytest.mark.parametrize("weight", [0, -1, True, 1.5, "2"])
def test_wrong_weights(weight: object) -> None:
    """A ValueError that names it."""
    with pytest.raises(buildslots.SettingError, match=r"^weight: "):
        SlotPool().acquire(weight=weight)  # type: ignore[arg-type]


def test_beyond_the_cap_it_has_as_many(pool: Pool) -> None:
    """From K up; a nested build runs under them."""
    with SlotPool(slots=2).acquire(), SlotPool(slots=2).acquire(timeout=0, weight=2) as beyond:
        assert (beyond.number, beyond.weight, beyond.overflow) == (2, 2, True)
        result = pool.slot_run("-n2", "-w2", "-t0", "sh", "-c", "echo $BUILD_SLOT", environ=beyond.environ())
        assert (result.stdout, result.stderr) == ("2\n", "")


def test_half_a_taking_leaves_nothing(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record of the second slot cannot be written: the first is let go, and the build runs without."""
    SlotPool(slots=2).acquire().release()
    before = set(os.listdir("/dev/fd"))
    # As code of ours: what is raised elsewhere is the caller's.
    full = (
        "def full(path, pool):\n"
        "    if path.endswith('slot-1'):\n"
        "        raise OSError(errno.ENOSPC, 'No space left on device', path)\n"
        "    return real(path, pool)\n"
    )
    names = {"real": records.keep, "errno": errno}
    exec(compile(full, records.__file__, "exec"), names)
    monkeypatch.setattr(records, "keep", names["full"])
    with pytest.warns(UnthrottledWarning, match="slot-1"):
        slot = SlotPool(slots=2).acquire(weight=2)
    assert (slot.number, slot.weight) == (None, 0)
    assert (pool.held(), set(os.listdir("/dev/fd"))) == ([], before)


def test_what_people_are_told(pool: Pool) -> None:
    """One row for the build, its slots counted, in status, in the waiting line and by doctor."""
    heavy = pool.build("-n4", "-w3")
    heavy.started()
    light = pool.build("-n4")
    light.started()
    waiter = pool.queued("-n4", "-w2")
    line = waiter.read_error_line()
    assert "waiting, place 1 of 1, for 2 slots together: 4 of 4 slots held by `sh -c " in line
    assert line.count(" s, 3 slots)") == 1
    text = pool.run(script("buildslots"), "status", environ={"MAX_CONCURRENT_BUILDS": "4"}).stdout
    head, _, _, _, _, first, second, _, _, last = text.splitlines()
    assert head == "pool default: 4 held of 4, 1 waiting"
    assert (first.split()[:2], second.split()[:2]) == (["0-2", str(heavy.pid)], ["3", str(light.pid)])
    assert last.endswith(" (needs 2 slots)")
    status = json.loads(pool.run(script("buildslots"), "status", "--json").stdout)
    assert [(h["slot"], h["slots"], h["weight"]) for h in status["holders"]] == [
        (0, [0, 1, 2], 3),
        (3, [3], 1),
    ]
    assert [(w["cap"], w["weight"]) for w in status["waiters"]] == [(4, 2)]
    doctor = pool.run(
        script("buildslots"), "doctor", "--verbose", environ={"MAX_CONCURRENT_BUILDS": "4"}
    ).stdout
    assert "4 slots held of 4, 1 waiting" in doctor
    assert "with a cap of" not in doctor
    for build in (heavy, light, waiter):
        build.finish()


@pytest.fixture
def strays(pool: Pool) -> Iterator[Strays]:
    """Makes processes that keep slots, and ends them."""
    strays = Strays(pool)
    yield strays
    strays.end()


@pytest.mark.linux
@pytest.mark.parametrize("slots", [[], ["1"], ["0", "1"]])
def test_a_stray_with_two_slots_is_released_once(pool: Pool, strays: Strays, slots: list[str]) -> None:
    """By any of its slots, and by none."""
    strays.leave(DAEMON, "-n2", "-w2")
    assert [h.slots for h in pool.status().holders] == [(0, 1)]
    doctor = pool.run(script("buildslots"), "doctor").stdout
    assert "slots 0-1 are kept by" in doctor
    result = pool.run(script("buildslots"), "release", "--yes", *slots)
    assert result.returncode == 0
    assert result.stdout.startswith("slots 0-1: kept by")
    assert result.stdout.endswith("slots 0-1 are free\n")
    assert result.stdout.count("\n") == 2
    assert pool.held() == []


def test_the_journal_tells_the_weight(pool: Pool) -> None:
    """The slots of the build are full with it, and it is drawn in each of them."""
    with build_slot(slots=2, weight=2):
        pass
    with build_slot(slots=2):
        pass
    text = (pool.dir.parent / "home").joinpath(state_dir(os.environ), NAME).read_text()
    events = [json.loads(line) for line in text.splitlines()]
    shown = [(e["event"], e["slot"], e.get("slots"), e.get("weight")) for e in events]
    assert shown == [
        ("started", 0, [0, 1], 2),
        ("ended", 0, None, None),
        ("started", 0, None, None),
        ("ended", 0, None, None),
    ]
    told = past(None, None, events[-1]["t"] + 1)
    assert [(b.slot, b.slots, b.weight) for b in told.builds] == [(0, (0, 1), 2), (0, (0,), 1)]
    rows = [e["tid"] for e in trace(told)["traceEvents"] if e["ph"] == "X"]  # type: ignore[attr-defined]
    assert rows == [1, 2, 1]
    data = json.loads(page(told).partition(' id="data">')[2].partition("<")[0])
    (its,) = data["pools"]
    assert [run["slot"] for run in its["runs"]] == [0, 1, 0]
    figures = its["figures"]
    assert (figures["peak"], figures["peak_slots"]) == (1, 2)
    first = events[1]["t"] - events[0]["t"]
    assert figures["full_s"] == pytest.approx(first, abs=1e-3)
