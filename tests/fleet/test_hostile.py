"""What others write into a pool on a server, and servers that stall or lie: builds are not misled by it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest
from builds import script, wait_until
from fleet_views import configure
from fleets import CONFIRM_S, NAME

from buildslots.fleet.connection import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builds import Pool
    from fleets import Fleet

LATER_US = 8 * 10**15
"""In the year 2223."""
DEEP = "[" * 3000
"""JSON that Python's reader gives up on with a RecursionError."""
HELLO = (
    b"%3\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.0.1\r\n"
    b"$4\r\nmode\r\n$10\r\nstandalone\r\n"
)
SUBSCRIBED = b">3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n:1\r\n"
WAITING = (
    b"*17\r\n$7\r\nwaiting\r\n$0\r\n\r\n:0\r\n:0\r\n:1\r\n:1\r\n:5\r\n:-1\r\n:1\r\n:0\r\n:0\r\n"
    b"$0\r\n\r\n$0\r\n\r\n:0\r\n:0\r\n:0\r\n$42\r\n1 1 30000000 3000000 30000000 300000000000\r\n"
)
"""The answer to a `join` or an `over` that is to wait; of a pool with one slot."""


def test_a_pause_that_was_written_by_hand_ends(fleet: Fleet) -> None:
    """None is longer than four hours from its begin, whatever its end is said to be."""
    fleet.create(1)
    fleet.server.do("HSET", f"bs:{{{NAME}}}:cfg", "pause_since", 1, "pause_until", LATER_US)
    build = fleet.build()
    assert build.started() == "0"
    assert build.finish() == 0


def test_what_a_holder_says_of_itself_lets_nobody_start(fleet: Fleet) -> None:
    """Who asks below a slot-run whether it is nested reads it."""
    fleet.create(1)
    fleet.configure('on_unreachable = "fail"')
    run(fleet.script.join("aa.1", info=DEEP))
    run(fleet.script.join("aa.1", info=DEEP))
    command = [script("slot-run"), "-p", NAME, "-t", "0.5", "--on-timeout", "fail", "true"]
    result = fleet.run(script("slot-run"), "-p", "default", *command)
    assert result.returncode == 75, result.stderr
    assert "RecursionError" not in result.stderr


def test_a_build_that_gave_up_on_a_server_that_stood_still_leaves_no_lease(fleet: Fleet) -> None:
    """The server reads its call later, when nobody waits for the answer: what it gives is soon free again."""
    fleet.create(1, confirm_s=CONFIRM_S)
    fleet.configure('on_unreachable = "fail"')
    assert fleet.slot_run("true").returncode == 0  # now the server has the script
    assert fleet.server.process is not None
    os.kill(fleet.server.process.pid, signal.SIGSTOP)
    try:
        assert fleet.slot_run("true").returncode == 75
    finally:
        os.kill(fleet.server.process.pid, signal.SIGCONT)
    wait_until(lambda: fleet.seen().counts.granted == 2, "its call is read")
    assert all(holder.left_s <= CONFIRM_S for holder in fleet.seen().holders)
    build = fleet.build()
    assert build.started() == "0"
    assert fleet.seen().holders[0].left_s > CONFIRM_S  # it has confirmed, and has a lease
    assert build.finish() == 0


@pytest.fixture
def liar(tmp_path: Path) -> Iterator[str]:
    """A server that has everybody wait for ever: the path of its socket."""
    path = str(tmp_path / "liar")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65536):
                answer = HELLO * (b"HELLO" in data) + SUBSCRIBED * (b"SUBSCRIBE" in data)
                connection.sendall(answer + WAITING * data.count(b"EVALSHA"))

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield path
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


@pytest.mark.parametrize(("how", "status"), [("local", 0), ("fail", 75)])
def test_a_server_that_always_says_wait_keeps_nobody_beyond_its_timeout(
    pool: Pool, liar: str, how: str, status: int
) -> None:
    """That nobody may go beyond the cap is no answer without a pause."""
    configure(f'[pools.{NAME}]\nurl = "unix://{liar}/0/{NAME}"\non_unreachable = "{how}"\n')
    before = time.process_time()
    result = pool.slot_run("-p", NAME, "-t", "0.5", "true")
    assert result.returncode == status, result.stderr
    assert time.process_time() - before < 5
