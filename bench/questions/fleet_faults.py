"""How soon a build starts on another host: with a free slot, after another one, after faults.

`python -m bench.questions.fleet_faults [--rounds N] [--write]`, Linux. Hosts are network namespaces, the pool
has one slot, and its lease is 3 s. A build says "on" when it has started; the time until that is heard
contains the start of a program.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.kit.across import create
from bench.kit.figures import median, shown
from bench.kit.hosts import Hosts
from bench.kit.installs import this
from bench.kit.servers import Connection, Redis
from bench.kit.shell import Missing, forget_settings, say
from bench.report.markdown import table
from bench.report.page import keep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

LEASE_S, CONFIRM_S = 3.0, 3.0
LIMIT_S = 30.0
STARTS = 25
PORT = 6379


class Build:
    """A build on the host `prefix` that is in the line of `url`, or has its slot."""

    def __init__(self, prefix: list[str], url: str) -> None:
        script = "echo on; read end; exit 0"
        self._process = subprocess.Popen(
            [*prefix, this().slot_run, "-q", "-t", "none", "-p", url, "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def started(self) -> float:
        """When it has started, in seconds of the monotonic clock. Raises Missing if it does not."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], LIMIT_S)[0] or not os.read(
            self._process.stdout.fileno(), 3
        ):
            raise Missing(f"a build did not start within {LIMIT_S:g} s")
        return time.monotonic()

    def end(self) -> float:
        """Let it end; when that was."""
        assert self._process.stdin is not None
        at = time.monotonic()
        self._process.stdin.close()
        return at

    def kill(self) -> float:
        """Kill it with its slot-run; when that was."""
        at = time.monotonic()
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        return at


class Field:
    """A server on host 0 and two hosts with builds."""

    def __init__(self, hosts: Hosts, redis: Redis) -> None:
        self._hosts = hosts
        self._observer = Connection(str(redis.socket))
        create(redis, "faults", 1, lease_s=LEASE_S, confirm_s=CONFIRM_S, ticket_s=LEASE_S)
        self._url = f"redis://{hosts.address(0)}:{PORT}/0/faults"

    def build(self, host: int) -> Build:
        """A build that has its place in line, or the slot."""
        before = self._known()
        build = Build(self._hosts.prefix(host), self._url)
        until = time.monotonic() + LIMIT_S
        while self._known() == before:
            if time.monotonic() > until:
                raise Missing("a build did not join the line")
            time.sleep(0.01)
        return build

    def _known(self) -> int:
        held, waiting = (
            self._observer.call(*words, f"bs:{{faults}}:{key}")
            for words, key in ((("ZCARD",), "h"), (("ZCARD",), "q"))
        )
        return int(held) + int(waiting)

    def usually(self) -> float:
        """Until the first in line starts when a build ends, in seconds."""
        with self.build(1) as holder, self.build(2) as first:
            holder.started()
            ended = holder.end()
            return first.started() - ended

    def waiter_killed(self) -> float:
        """Until the second starts when a build ends, and the first in line was killed."""
        with self.build(1) as holder, self.build(1) as first, self.build(2) as second:
            holder.started()
            first.kill()
            ended = holder.end()
            return second.started() - ended

    def waiter_cut_off(self) -> float:
        """The same when the host of the first in line was cut off."""
        with self.build(2) as holder, self.build(1), self.build(2) as second:
            holder.started()
            self._hosts.cut(1)
            ended = holder.end()
            return second.started() - ended

    def holder_killed(self) -> float:
        """Until the next starts when a build and its slot-run are killed."""
        with self.build(1) as holder, self.build(2) as first:
            holder.started()
            killed = holder.kill()
            return first.started() - killed


def start_s(*options: str) -> float:
    """How long `slot-run OPTIONS true` takes on this host."""
    began = time.monotonic()
    subprocess.run([this().slot_run, *options, "true"], check=True, stdin=subprocess.DEVNULL)
    return time.monotonic() - began


def starts(redis: Redis, rounds: int) -> list[float]:
    """How much longer starts take with a free slot of a pool on the server than with one of this machine."""
    url = create(redis, "free", 3)
    pairs = [(start_s("-p", url), start_s()) for _ in range(rounds + 1)]
    return [fleet_s - local_s for fleet_s, local_s in pairs[1:]]


def measured(rounds: int) -> Iterator[list[str]]:
    """A row for each case."""
    cases: list[tuple[str, Callable[[Field], float], str]] = [
        ("a build ends", Field.usually, ""),
        ("the first in line was killed, a build ends", Field.waiter_killed, "50 ms"),
        (
            "the first in line was cut off, a build ends",
            Field.waiter_cut_off,
            f"{CONFIRM_S + 0.5:g} s: confirm and 0.5 s",
        ),
        ("a build was killed with its slot-run", Field.holder_killed, f"{LEASE_S + 1:g} s: a lease and 1 s"),
    ]
    with tempfile.TemporaryDirectory(prefix="fleet-") as scratch:
        forget_settings(scratch)
        config = Path(scratch, "config", "buildslots")
        config.mkdir(parents=True)
        url = f"redis://{Hosts.address(0)}:{PORT}/0/faults"
        (config / "config.toml").write_text(f'[pools.faults]\nurl = "{url}"\nplaintext = true\n')
        say("a free slot")
        with Redis(Path(scratch) / "free") as redis:
            more = [seconds * 1e3 for seconds in starts(redis, STARTS)]
        what = "`slot-run true` with a free slot: longer than with one of this machine by"
        yield [what, shown(median(more)), shown(max(more)), "25 ms"]
        for what, case, bar in cases:
            say(what)
            found = []
            for number in range(rounds):
                home = Path(scratch) / f"{case.__name__}-{number}"
                with Hosts(3) as hosts, Redis(home, hosts.prefix(0), port=PORT) as redis:
                    found.append(case(Field(hosts, redis)) * 1e3)
            yield [what, shown(median(found)), shown(max(found)), bar]


COLUMNS = ["what", "median, ms", "at most", "bar"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.questions.fleet_faults", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", action="store_true", help="write bench/results.md")
    options = parser.parse_args()
    rows = list(measured(options.rounds))
    print("\n".join(table(COLUMNS, rows)))
    if options.write:
        title = "Slots across machines: starts, and the next start after faults"
        keep("fleet-faults", title, "bench.questions.fleet_faults", COLUMNS, rows, [NOTE])


NOTE = (
    f"Three hosts as network namespaces, one slot, a lease of {LEASE_S:g} s, {CONFIRM_S:g} s to confirm."
    " All but the first: from the moment that something was done until the next build has said something."
)


if __name__ == "__main__":
    main()
