"""Admission by the state of the machine: memory, load, pressure."""

from __future__ import annotations

import os
import pickle
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import psutil
import pytest
from builds import HELD_BUILD, Build, Pool, script, step, take_now
from namespaces import unshare

from buildslots import Gates, SettingError, SlotPool, SlotTimeoutError, gates
from buildslots.backend import Request
from buildslots.disk import line, sleepers
from buildslots.disk.directory import PoolDirectory
from buildslots.disk.wait import GATE_S, NEVER, Wait
from buildslots.settings import resolve
from buildslots.settings.places import config_path
from buildslots.settings.values import parse_load, parse_memory, parse_pressure

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

TOO_MUCH = "900T"
CLOSED = Gates(min_free_memory=900 * 2**40)


@pytest.mark.linux
def test_a_memory_hog_holds_the_second_build_back(pool: Pool, tmp_path: Path) -> None:
    """The first starts beside it; the second when it has gone, though a slot was free all the time.

    The hog is a number in /proc/meminfo: beside a real one, other programs of the machine take and give back
    memory as they like.
    """
    meminfo = tmp_path / "meminfo"

    def available(size: int) -> None:
        meminfo.write_text(f"MemTotal: {2**24} kB\nMemFree: {2**20} kB\nMemAvailable: {size // 1024} kB\n")

    def build() -> Build:
        setup = f'mount --bind {meminfo} /proc/meminfo && exec "$@"'
        run = (script("slot-run"), "-n2", "--min-free-memory", "6G", "--", "sh", "-c", HELD_BUILD)
        return pool.popen(*unshare("--mount"), "sh", "-c", setup, "sh", *run)

    available(4 * 2**30)
    first = build()
    assert first.started() == "0"
    second = build()
    line = second.read_error_line()
    assert line.startswith(
        "slot-run: waiting, place 1 of 1, for 6.0 GiB of free memory (4.0 GiB now): 1 of 2 slots held by `"
    )
    assert "; runs anyway in " in line
    assert not second.is_started()
    available(8 * 2**30)
    assert second.started() == "1"
    assert "starting after" in second.read_error_line()
    first.finish()
    second.finish()


def test_a_gate_never_holds_when_nothing_else_runs(pool: Pool) -> None:
    """Neither whoever comes first, nor who waits when the last build has ended."""
    first = pool.build("-n2", "--min-free-memory", TOO_MUCH)
    assert first.started() == "0"
    second = pool.queued("-n2", "--min-free-memory", TOO_MUCH)
    first.finish()
    assert second.started() == "0"
    second.finish()


def test_at_the_timeout_it_starts_all_the_same(pool: Pool) -> None:
    """In the slot that was free, and says what it did not wait for any longer; or exits 75."""
    pool.build("-n2").started()
    result = pool.slot_run("-n2", "-t0.2", "--min-free-memory", TOO_MUCH, "sh", "-c", "echo $BUILD_SLOT")
    assert (result.returncode, result.stdout) == (0, "1\n")
    assert result.stderr.splitlines()[1].startswith("slot-run: no 921600.0 GiB of free memory (")
    assert re.search(r" now\) within 0\.\d s: running all the same\n$", result.stderr)
    result = pool.slot_run("-n2", "-t0", "--min-free-memory", TOO_MUCH, "true")
    assert result.stderr.endswith(" now) now: running all the same\n")
    result = pool.slot_run("-n2", "-t0.2", "--on-timeout", "fail", "--min-free-memory", TOO_MUCH, "true")
    assert result.returncode == 75
    gate = r"slot-run: pool 'default': no 921600\.0 GiB of free memory \(.* now\) within 0\.2 s; giving up"
    assert re.match(gate, result.stderr.splitlines()[1])


def test_who_starts_all_the_same_says_only_that(pool: Pool) -> None:
    """And not, before it, that it starts after so long."""
    pool.build("-n2").started()
    result = pool.slot_run("-n2", "-t4", "--min-free-memory", TOO_MUCH, "true")
    assert [line.split()[1] for line in result.stderr.splitlines()] == ["no", "waiting,", "no"]


def test_beyond_the_cap_nothing_is_said_of_the_machine(pool: Pool) -> None:
    """What was missing was a slot."""
    pool.build("-n1").started()
    result = pool.slot_run("-n1", "-t0.2", "--min-free-memory", TOO_MUCH, "true")
    said = r"slot-run: no slot within 0\.\d s: running beyond the cap of 1 \(overflow slot 1\)"
    assert re.fullmatch(said, result.stderr.splitlines()[1])


def test_in_python(pool: Pool) -> None:
    """As an argument of the pool; `try_acquire` finds none then."""
    gated = SlotPool(slots=2, gates=CLOSED)
    with gated.acquire():
        assert gated.try_acquire() is None
        with pytest.raises(SlotTimeoutError):
            gated.acquire(0.05, "fail")
        with gated.acquire(0.05) as slot:
            assert (slot.number, slot.overflow) == (1, False)
    assert (pool.held(), pool.leftovers()) == ([], [])


def test_the_head_looks_again_and_hears_who_knocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four times a second: so nobody behind it takes it for one that is asleep."""
    directory = PoolDirectory(str(tmp_path / "pool"))
    first = take_now(directory, Request(2, ["make"]))
    ticket = step(directory, lambda: line.Ticket(directory.path, 2, b""))
    place = Wait(directory, ticket, Request(2, ["make"], gates=CLOSED))
    steps = place.until(NEVER)
    _, seconds = next(steps)
    assert place._gate is not None
    assert 0 < seconds <= GATE_S
    _, seconds = steps.send(False)
    assert 0 < seconds <= GATE_S
    monkeypatch.setattr(Gates, "closed_by", lambda _: None)
    with pytest.raises(StopIteration) as end:
        steps.send(False)
    assert (end.value.value.numbers, end.value.value.despite) == ((1,), None)
    for held in (first, end.value.value):
        held.release()
    ticket.leave()


def test_whoever_is_not_next_waits_for_its_turn_only(tmp_path: Path) -> None:
    """What held it back at an earlier look is no reason any more."""
    directory = PoolDirectory(str(tmp_path / "pool"))
    hold = take_now(directory, Request(1, ["make"]))
    tickets = [step(directory, lambda: line.Ticket(directory.path, 1, b"")) for _ in range(2)]
    place = Wait(directory, tickets[1], Request(1, ["make"], gates=CLOSED))
    place._gate = "anything"
    steps = place.until(NEVER)
    _, seconds = next(steps)
    assert (place._gate, seconds > GATE_S) == (None, True)
    steps.close()
    for ticket in tickets:
        ticket.leave()
    hold.release()


@pytest.mark.parametrize(
    ("bounds", "state", "words"),
    [
        (Gates(max_load=4), {"load": 4.0}, None),
        (Gates(max_load=4), {"load": 7.06}, "load of at most 4 (7.1 now)"),
        (Gates(max_load=4), {"load": None}, None),
        (Gates(max_pressure={"io": 40}), {"pressure": 40.0}, None),
        (Gates(max_pressure={"io": 40}), {"pressure": 61.2}, "io pressure of at most 40 % (61 % now)"),
        (Gates(max_pressure={"io": 40}), {"pressure": None}, None),
        (Gates(min_free_memory=2**30), {"free_memory": 2**30}, None),
        (Gates(min_free_memory=2**30), {"free_memory": 2**29}, "1.0 GiB of free memory (512 MiB now)"),
        (Gates(min_free_memory=2**30), {"free_memory": None}, None),
        (Gates(), {}, None),
    ],
)
def test_what_closes_a_gate(
    monkeypatch: pytest.MonkeyPatch, bounds: Gates, state: dict[str, float | None], words: str | None
) -> None:
    """Less memory, more load or more pressure than asked for; nothing that the system does not tell."""
    for name, value in state.items():
        monkeypatch.setattr(gates, name, lambda *_, value=value: value)
    assert bounds.closed_by() == words


@pytest.mark.parametrize("loads", [os, psutil])
def test_what_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch, loads: ModuleType) -> None:
    """A failing look is None and stops no build."""

    def fails(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(os, "open", fails)
    monkeypatch.setattr(psutil, "virtual_memory", fails)
    monkeypatch.setattr(psutil, "getloadavg", fails)
    if loads is psutil:
        monkeypatch.delattr(os, "getloadavg")
    else:
        monkeypatch.setattr(os, "getloadavg", fails)
    assert (gates.free_memory(), gates.load(), gates.pressure("nothing")) == (None, None, None)


def test_memory_and_load_are_those_of_psutil() -> None:
    """Whoever has it from there, or from `free`, need not learn other numbers."""
    free, load = gates.free_memory(), gates.load()
    assert free == pytest.approx(psutil.virtual_memory().available, abs=psutil.virtual_memory().total / 20)
    assert load == pytest.approx(psutil.getloadavg()[0], abs=5)


@pytest.mark.linux
@pytest.mark.parametrize(
    ("text", "free"),
    [
        (b"MemTotal: 8 kB\nMemFree: 2 kB\nMemAvailable: 4 kB\nBuffers: 1 kB\n", 4096),
        (b"MemTotal:        8 kB\nMemFree:  2 kB\nMemAvailable: 9 kB\n", 2048),
        (b"MemTotal: 8 kB\nMemFree: 2 kB\nMemAvailable: 0 kB\n", 77),
        (b"MemTotal: 8 kB\nMemFree: 2 kB\n", 77),
        (b"MemTotal: 8 kB\nMemFree: 2 kB\nMemAvailable:\n", 77),
        (b"MemTotal: 8 kB\nMemFree: 2 kB\nMemAvailable: much\n", 77),
        (b"\xff\n\n", 77),
        (b"", 77),
    ],
)
def test_free_memory_is_the_kernel_s(monkeypatch: pytest.MonkeyPatch, text: bytes, free: int) -> None:
    """MemAvailable; what is free where that is more than there is; where it does not say, psutil does."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=77, total=99))
    monkeypatch.setattr(os, "read", lambda *_: text)
    assert gates.free_memory() == free


@pytest.mark.linux
def test_pressure_is_the_kernel_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first percentage of the first line, as in Documentation/accounting/psi.rst."""
    text = b"some avg10=12.34 avg60=1.00 avg300=0.00 total=5\nfull avg10=0.00 avg60=0.00\n"
    monkeypatch.setattr(os, "read", lambda *_: text)
    monkeypatch.setattr(os, "open", lambda *_: os.dup(0))
    assert gates.pressure("io") == 12.34


@pytest.mark.parametrize(
    "arguments",
    [
        {"min_free_memory": "2G"},
        {"min_free_memory": 0},
        {"min_free_memory": True},
        {"max_load": -1},
        {"max_load": float("nan")},
        {"max_pressure": {"disk": 3}},
        {"max_pressure": {"io": "3"}},
        {"max_pressure": {"io": float("inf")}},
    ],
)
def test_wrong_bounds(arguments: dict[str, object]) -> None:
    """A ValueError that names the bound, before anything is touched."""
    with pytest.raises(SettingError, match=next(iter(arguments))):
        Gates(**arguments)  # type: ignore[arg-type]


def test_bounds_stay_as_they_are() -> None:
    """A pool that is shared or pickled has the same ones everywhere."""
    bounds = Gates(2**30, max_load=4.5, max_pressure={"io": 1})
    with pytest.raises(AttributeError, match="Gates cannot be changed: max_load"):
        bounds.max_load = 9
    copy = pickle.loads(pickle.dumps(bounds))
    assert (type(copy), repr(copy)) == (Gates, repr(bounds))


def test_repr() -> None:
    """What one would write."""
    assert (
        repr(Gates(2**30, max_pressure={"io": 1}))
        == "Gates(max_pressure={'io': 1}, min_free_memory=1073741824)"
    )
    assert repr(Gates()) == "Gates()"


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_memory, "512", 512),
        (parse_memory, "2G", 2 * 2**30),
        (parse_memory, " 1.5g ", 3 * 2**29),
        (parse_memory, "512MiB", 2**29),
        (parse_memory, "3kb", 3072),
        (parse_memory, "1T", 2**40),
        (parse_load, "2.5", 2.5),
        (parse_pressure, "io=40", {"io": 40.0}),
        (parse_pressure, "io=40%, memory=2.5", {"io": 40.0, "memory": 2.5}),
    ],
)
def test_values(parse: Callable[[str, str], object], text: str, value: object) -> None:
    """As they stand on the command line and in the file."""
    assert parse(text, "--option") == value


@pytest.mark.parametrize(
    ("parse", "texts"),
    [
        (parse_memory, ["", "0", "0.5", "-1", "G", "2X", "1e3", "nan", "2 4", "9" * 16]),
        (parse_load, ["", "0", "-1", "x", "inf"]),
        (parse_pressure, ["", "40", "disk=3", "io=", "io=-1", "io=40,", "io=40,io"]),
    ],
)
def test_wrong_values(parse: Callable[[str, str], object], texts: list[str]) -> None:
    """Each is a SettingError with the source."""
    for text in texts:
        with pytest.raises(SettingError, match=r"^--option: "):
            parse(text, "--option")


def test_the_config_file(pool: Pool) -> None:
    """Of one pool before those of all; what is wrong is said and passed over; an option comes first."""
    path = Path(config_path(os.environ))
    path.parent.mkdir(parents=True)
    path.write_text(
        'max_load = 8\nmin_free_memory = "1G"\n'
        "[pools.link]\nmin_free_memory = 1000000\nmax_pressure = {io = 40, memory = 2.5}\nmax_load = true\n"
        '[pools.wrong]\nmax_load = "much"\nmin_free_memory = []\nmax_pressure = "io"\nmax_lood = 1\n'
        f"[pools.deep]\nmin_free_memory = 0.5\nmax_pressure{'.a' * 12} = 1\n"
    )
    said: list[str] = []

    def bounds(name: str | None, **options: object) -> dict[str, object]:
        its = resolve(pool=name, warn=said.append, **options).gates  # type: ignore[arg-type]
        assert its is not None
        return its.as_dict()

    assert bounds(None) == {"max_load": 8.0, "min_free_memory": 2**30}
    link = {"max_load": 8.0, "min_free_memory": 1000000, "max_pressure": {"io": 40.0, "memory": 2.5}}
    assert bounds("link") == link
    assert bounds("link", gates={"max_load": 2.0}) == link | {"max_load": 2.0}
    assert bounds("wrong") == bounds("deep") == {"max_load": 8.0, "min_free_memory": 2**30}
    assert [line.partition("key ")[2].partition(":")[0] for line in said] == [
        "pools.link.max_load",
        "pools.wrong.max_load",
        "pools.wrong.min_free_memory",
        "pools.wrong.max_pressure",
        "pools.wrong.max_lood",
        "pools.deep.min_free_memory",
        "pools.deep.max_pressure",
    ]
    assert "perhaps 'max_load'" in said[-3]


def test_who_may_pass_sleepers_but_for_a_gate_asks_it_four_times_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would keep a core busy otherwise, and perhaps the gate closed; and it says what it waits for."""
    directory = PoolDirectory(str(tmp_path / "pool"))
    running = take_now(directory, Request(2, ["make"]))
    asleep = step(directory, lambda: line.Ticket(directory.path, 2, b""))
    ticket = step(directory, lambda: line.Ticket(directory.path, 2, b""))
    place = Wait(directory, ticket, Request(2, ["make"], gates=CLOSED))
    monkeypatch.setattr(sleepers, "IDLE_S", 0.0)
    steps = place.until(NEVER)
    _, seconds = next(steps)
    for _ in range(100):
        if place._gate is not None:
            break
        time.sleep(max(0.0, min(seconds, 0.2)))
        _, seconds = steps.send(False)
    assert place._gate is not None
    assert 0.9 * GATE_S < seconds <= GATE_S
    monkeypatch.setattr(Gates, "closed_by", lambda _: None)
    time.sleep(seconds)
    with pytest.raises(StopIteration) as end:
        steps.send(False)
    for held in (running, end.value.value):
        held.release()
    for one in (asleep, ticket):
        one.leave()
