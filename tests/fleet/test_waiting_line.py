"""What a build says while it waits in a pool on a server, to people and to programs."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
from typing import TYPE_CHECKING

from builds import script, wait_until
from fleet_views import about, views
from fleets import NAME
from terminals import Terminal

from buildslots import SlotCancelledError, SlotPool
from buildslots.fleet.connection import run

if TYPE_CHECKING:
    from pathlib import Path

    from builds import Build
    from fleets import Fleet

    from buildslots import Waiting


def waiter(fleet: Fleet, *options: str) -> Build:
    """A slot-run that says what it waits for."""
    return fleet.popen(script("slot-run"), *options, "--", "true")


def filled(fleet: Fleet) -> None:
    """One slot, which a build of another host holds."""
    fleet.create(1)
    run(fleet.script.join("a1.1", info=about("north", cwd="kernel", command="make all\0")))


def test_the_line_names_the_holders_and_their_hosts(fleet: Fleet) -> None:
    """With place, cap and timeout, as in a pool of this machine."""
    filled(fleet)
    build = waiter(fleet, "-t", "5m")
    line = build.read_error_line()
    pattern = (
        r"slot-run: waiting in pool 'license', place 1 of 1: 1 of 1 slots held by "
        r"`make all` on north in kernel \(\d+ s\); runs anyway in 4 min \d+ s\n"
    )
    assert re.fullmatch(pattern, line), line
    run(fleet.script.drop("a1.1"))
    assert re.fullmatch(r"slot-run: starting after .* with slot 0\n", build.read_error_line())
    assert build.process.wait() == 0


def test_how_long_it_takes_rests_on_this_machine_s_journal(fleet: Fleet) -> None:
    """Of the same program, whatever the host: where three builds of it are known."""
    fleet.create(1)
    for _ in range(3):
        assert fleet.slot_run("true").returncode == 0
    run(fleet.script.join("a1.1", info=about("north", command="true\0")))
    build = waiter(fleet, "-t", "5m")
    assert re.search(r"place 1 of 1, (any moment|about \d+ s): ", build.read_error_line())
    assert views("status", NAME).stdout.splitlines()[-1].split()[3] != "?"
    history = views("history", NAME).stdout
    assert f"pool license at {fleet.url}, builds of this machine" in history
    assert "all slots held" not in history


def test_a_pause_and_hostile_words(fleet: Fleet) -> None:
    """What others have written is bounded, and steers nothing."""
    filled(fleet)
    run(fleet.script.join("b2.1", info=about("\x1b[2J" + "h" * 500, command="\x07evil\0")))
    run(fleet.script.pause("eve\n", 600, "\x1b]0;\x07"))
    line = waiter(fleet).read_error_line()
    assert "for the end of a pause at " in line
    assert line.rstrip("\n").isprintable()
    assert len(line) < 500


def test_a_server_that_goes_away(fleet: Fleet, tmp_path: Path) -> None:
    """The line says so; and when it is back, without its data, that holders have to report to it first."""
    filled(fleet)
    terminal = Terminal(tmp_path / "tmux", fleet.environ)
    try:
        terminal.type(f"{script('slot-run')} -t none true")
        terminal.wait_for(
            "slot-run: waiting in pool 'license', place 1 of 1: 1 of 1 slots held by `make all`"
        )
        fleet.server.stop(signal.SIGKILL)
        terminal.wait_for("slot-run: waiting in pool 'license', place 1 of 1, for the server, which cannot")
        fleet.server.start()
        terminal.wait_for(
            "slot-run: waiting in pool 'license', place 1 of 1, for the holders to report after a"
        )
        terminal.keys("C-c")
    finally:
        terminal.close()


def test_python_is_told_the_same(fleet: Fleet) -> None:
    """Place, holders and reasons."""
    filled(fleet)
    told: list[Waiting] = []
    over = threading.Event()

    def wait() -> None:
        with contextlib.suppress(SlotCancelledError):
            SlotPool(on_wait=told.append).acquire(timeout=None, cancel=over)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    wait_until(lambda: told and told[-1].holders, "what it waits for")
    assert (told[-1].place, told[-1].held, told[-1].cap) == (1, 1, 1)
    assert told[-1].holders.startswith("`make all` on north in kernel (")
    assert [reason.kind for reason in told[-1].reasons] == ["slots"]
    over.set()
    thread.join()
