"""What holds on every platform, Windows included: order, bound, exit status, nesting, usage."""

from __future__ import annotations

import json
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from builds import DEADLINE_S, Pool, script, wait_until

from buildslots import SlotPool, crowd
from buildslots.errors import SettingError
from buildslots.run.options import Options, UsageError
from buildslots.settings.values import UNSET

if TYPE_CHECKING:
    from buildslots import Slot

PYTHON = [sys.executable, "-c"]


def waiting_here() -> int:
    """How many callers of this process wait, in line or in memory."""
    return sum(len(one._standing) + len(one._waiting) for one in crowd._crowds.values())


def test_threads_take_their_turns_in_order(pool: Pool) -> None:
    """Each waits in line behind the one before, and one slot is never held twice."""
    one = SlotPool(slots=1, timeout=None)
    order: list[int] = []
    held: list[Slot] = []

    def build(number: int) -> None:
        with one.acquire() as slot:
            held.append(slot)
            order.append(number)
            assert held == [slot]
            held.remove(slot)

    first = one.acquire()
    threads = [threading.Thread(target=build, args=[number]) for number in range(5)]
    for place, thread in enumerate(threads, 1):
        thread.start()
        wait_until(lambda place=place: waiting_here() == place, "one more in line")
    assert one.try_acquire() is None
    first.release()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert (order, one.status().holders, pool.leftovers()) == ([0, 1, 2, 3, 4], (), [])


def test_slot_run_on_any_platform(pool: Pool) -> None:
    """It runs the command under a slot, hands its exit status on, and nests."""
    show = "import os, sys; print(os.environ.get('BUILD_SLOT')); sys.exit(7)"
    result = pool.slot_run(*PYTHON, show)
    assert (result.returncode, result.stdout, result.stderr) == (7, "0\n", "")
    result = pool.slot_run("-n1", script("slot-run"), "-n1", *PYTHON, show)
    assert (result.returncode, result.stdout, result.stderr) == (7, "0\n", "")
    assert pool.slot_run("no-such-command-here").returncode == 127
    assert pool.slot_run("-n", "none", "true").returncode == 125


def test_a_full_pool_on_any_platform(pool: Pool) -> None:
    """Without time to wait a build fails with 75, or runs beyond the cap and says so."""
    with SlotPool(slots=1).acquire():
        result = pool.slot_run("-n1", "-t0", "--on-timeout=fail", *PYTHON, "")
        assert (result.returncode, result.stdout) == (75, "")
        assert "giving up" in result.stderr
        result = pool.slot_run("-n1", "-t0", *PYTHON, "import os; print(os.environ['BUILD_SLOT'])")
        assert (result.returncode, result.stdout) == (0, "1\n")
        assert result.stderr == ("slot-run: no slot is free: running beyond the cap of 1 (overflow slot 1)\n")
        status = json.loads(pool.run(script("buildslots"), "status", "--json").stdout)
        assert [holder["slot"] for holder in status["holders"]] == [0]


def test_help_and_version(pool: Pool) -> None:
    """They go to stdout, need no command, and take no slot."""
    for option in ("-h", "--help"):
        result = pool.slot_run(option)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.startswith("Usage: slot-run [OPTIONS] [--] COMMAND")
        assert max(map(len, result.stdout.splitlines())) < 100
    assert pool.slot_run("--version").stdout.startswith("slot-run 0.")
    assert not pool.dir.exists()


@pytest.mark.parametrize(
    ("args", "command", "values"),
    [
        ("make -j8", ["make", "-j8"], {}),
        ("-- make -n 3", ["make", "-n", "3"], {}),
        ("-n3 make -p x", ["make", "-p", "x"], {"slots": 3}),
        ("-n 3 -- -odd", ["-odd"], {"slots": 3}),
        ("--slots=3 -q make", ["make"], {"slots": 3, "quiet": True}),
        ("-qn3 make", ["make"], {"slots": 3, "quiet": True}),
        ("-qn 3 make", ["make"], {"slots": 3, "quiet": True}),
        ("--slots 3 --slots 4 make", ["make"], {"slots": 4}),
        ("-t none -- make --", ["make", "--"], {"timeout_s": None}),
        ("-t1h30m make", ["make"], {"timeout_s": 5400.0}),
        ("--timeout 0 make", ["make"], {"timeout_s": 0.0}),
        (
            "--on-timeout fail --dir /x -p link make",
            ["make"],
            {"on_timeout": "fail", "dir": "/x", "pool": "link"},
        ),
        ("- x", ["-", "x"], {}),
        ("-- -- x", ["--", "x"], {}),
    ],
)
def test_options(args: str, command: list[str], values: dict[str, object]) -> None:
    """Each form of option is understood, and parsing ends at the first operand."""
    options = Options(args.split())
    expected = {
        "slots": None,
        "pool": None,
        "timeout_s": UNSET,
        "on_timeout": None,
        "dir": None,
        "quiet": False,
    }
    assert {name: getattr(options, name) for name in expected} == expected | values
    assert (options.command, options.show) == (command, None)


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ([], UsageError, "no command to run"),
        (["--"], UsageError, "no command to run"),
        ([""], UsageError, "the command to run is empty"),
        (["-n"], UsageError, "option -n needs a value"),
        (["-q", "--pool"], UsageError, "option --pool needs a value"),
        (["--quiet=yes", "make"], UsageError, "option --quiet takes no value, but has 'yes'"),
        (["-x", "make"], UsageError, "there is no option '-x'"),
        (["-qx", "make"], UsageError, "there is no option '-x'"),
        (["--slot", "3", "make"], UsageError, "there is no option '--slot'"),
        (["--slots=", "3", "make"], SettingError, "--slots: '' is not a positive whole number"),
        (["-n", "0", "make"], SettingError, "--slots: '0' is not a positive whole number"),
        (["-t", "soon", "make"], SettingError, "--timeout: 'soon' is not a duration"),
        (
            ["--on-timeout", "x", "make"],
            SettingError,
            "--on-timeout: 'x' is none of 'run', 'paced' and 'fail'",
        ),
        (["--pool=../x", "make"], SettingError, "--pool: '../x' is not the name of a pool"),
        (["--dir=", "make"], SettingError, "--dir: '' is no directory"),
    ],
)
def test_wrong_options(args: list[str], error: type[Exception], message: str) -> None:
    """One sentence that names the option and the value."""
    with pytest.raises(error) as caught:
        Options(args)
    assert str(caught.value).startswith(message)
