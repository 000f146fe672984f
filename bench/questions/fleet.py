"""Slots across machines: hand-over, use, fairness, and what a server has to do, beside what others do.

`python -m bench.questions.fleet [--peers P,...] [--clients N] [--seconds N] [--write]`, Linux. It starts
redis-server, PostgreSQL and etcd on sockets of its own. Processes want a slot again and again, at once or
after a pause, and hold it for 10 or 100 ms. A slot goes from the end of a hold to the next start; "overtaken"
are the starts before which somebody else had come at least so long earlier.

Without a pause between turns polling looks best: whoever lets go takes the slot again at once, before anybody
else looks, and most others starve. The longest wait shows it. With a pause, as builds have it, the slot is
idle until somebody looks.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.kit.across import PEERS, Servers
from bench.kit.crowds import Failed, deadline
from bench.kit.figures import NONE, median, quantile, shown
from bench.kit.servers import Redis
from bench.kit.shell import Missing, forget_settings, say
from bench.kit.spans import gaps_s, over
from bench.kit.workers import Workers
from bench.questions.use import spread, used
from bench.report.markdown import table
from bench.report.page import keep

if TYPE_CHECKING:
    from bench.kit.across import Peer
    from bench.kit.libraries import Acquire
    from bench.kit.servers import Server
    from bench.kit.workers import Hold

SLOTS, CLIENTS = 3, 64
HOLDS_S, PAUSES_S = (0.010, 0.100), (0.150, 0.0)
JOIN_S = 0.012
"""For each client so long until it is watched: all join at once, on cores that are busy."""
PATIENCE_S = 0.020
"""Two that come within this time may start in either order: their clocks were read before they joined."""
CLIENT_CALLS = {"hello", "auth", "select", "client", "script", "evalsha", "eval", "ping", "set"}
"""Commands that clients send, and our script does not: INFO commandstats counts what it calls, too."""
CLIENT_CALLS |= {"subscribe", "unsubscribe", "multi", "exec", "blpop", "function"}


@dataclass(frozen=True)
class Case:
    """What processes do that want a slot again and again.

    Attributes:
        slots: How many there are.
        clients: How many want one.
        hold_s: How long each holds it.
        pause_s: How long each does without before it wants another.
        seconds: For how long they are watched at least.
    """

    slots: int
    clients: int
    hold_s: float
    pause_s: float
    seconds: float


@dataclass(frozen=True)
class Turns:
    """What they saw.

    Attributes:
        peer: Who gave the slots.
        case: What they did.
        use: Of the time of all slots, in percent.
        gaps_ms: From the end of a hold to the start of the next.
        overtaken: Of all starts, in percent, those before which somebody else had waited longer.
        spread: The longest wait in times of the mean.
        over: How many more held a slot at once than there are.
        server_us: CPU time of the server for a turn.
        calls: Commands that clients sent for a turn; None where that is not known.
    """

    peer: str
    case: Case
    use: float
    gaps_ms: list[float]
    overtaken: float
    spread: float
    over: int
    server_us: float
    calls: float | None


def turns(peer: Peer, acquire: Acquire, servers: Servers, case: Case) -> Turns:
    """Let them begin, get some time to do so, and watch them.

    Raises:
        Failed: The peer did not go through it.
    """
    round_s = max(case.clients * case.hold_s / case.slots, case.hold_s + case.pause_s)
    with Workers(acquire, case.clients, case.hold_s, again=True, pause_s=case.pause_s) as workers:
        workers.begin()
        time.sleep(0.5 + max(round_s, case.clients * JOIN_S))
        server = servers.of(peer)
        cpu_s, calls, began = server.cpu_s(), called(server), time.monotonic_ns()
        time.sleep(max(case.seconds, 2.2 * round_s))
        ended, more_s, more = time.monotonic_ns(), server.cpu_s() - cpu_s, called(server) - calls
        workers.check()
        holds, spans = workers.holds(), workers.spans()
    starts = [hold for hold in holds if began <= hold.got < ended]
    if not starts:
        raise Failed("nobody got a slot")
    return Turns(
        peer=peer.name,
        case=case,
        use=used(holds, began, ended, case.slots),
        gaps_ms=[gap * 1e3 for gap in gaps_s([span for span in spans if span.start >= began], case.slots)],
        overtaken=overtaken(holds, began, ended),
        spread=spread([hold for hold in holds if (hold.got or ended) >= began], ended),
        over=over(spans, case.slots),
        server_us=more_s / len(starts) * 1e6,
        calls=more / len(starts) if isinstance(server, Redis) else None,
    )


def called(server: Server) -> int:
    """How many commands clients have sent to a Redis so far; 0 for another server."""
    if not isinstance(server, Redis):
        return 0
    return sum(count for name, count in server.calls().items() if name.partition("|")[0] in CLIENT_CALLS)


def overtaken(holds: list[Hold], began: int, ended: int) -> float:
    """How many per cent of the starts came before that of somebody who had come earlier."""
    earliest, seen = ended, []
    for hold in sorted(holds, key=lambda hold: hold.got or ended, reverse=True):
        if began <= hold.got < ended:
            seen.append(earliest < hold.wanted - PATIENCE_S * 1e9)
        earliest = min(earliest, hold.wanted)
    return sum(seen) / len(seen) * 100


def side_by_side(servers: Servers, options: argparse.Namespace) -> list[Turns]:
    """All peers through all cases, those with a pause first."""
    found = []
    for pause_s, hold_s in itertools.product(PAUSES_S, HOLDS_S):
        for slots in (SLOTS, 1):
            case = Case(slots, options.clients, hold_s, pause_s, options.seconds)
            for peer in PEERS:
                if peer.name in options.peers and peer.slots in {None, slots}:
                    found += measured(peer, servers, case)
    return found


def measured(peer: Peer, servers: Servers, case: Case) -> list[Turns]:
    """One run; nothing, with a line, if the peer does not go through it."""
    say(f"{peer.name}, {case.slots} slots, {case.hold_s * 1e3:.0f} ms, pauses of {case.pause_s * 1e3:.0f} ms")
    try:
        with deadline(60 + 4 * case.seconds):
            return [turns(peer, peer.acquire(servers, case.slots), servers, case)]
    except (Failed, Missing, OSError) as error:
        say(f"{peer.name}: {error}")
        return []


def rows(found: list[Turns]) -> list[list[str]]:
    """The cells of a table."""
    return [
        [
            each.peer,
            str(each.case.slots),
            shown(each.case.hold_s * 1e3),
            shown(each.case.pause_s * 1e3),
            shown(each.use),
            shown(median(each.gaps_ms)) if each.gaps_ms else NONE,
            shown(quantile(each.gaps_ms, 0.95)) if each.gaps_ms else NONE,
            shown(each.spread),
            shown(each.overtaken),
            str(each.over),
            shown(each.server_us),
            shown(each.calls),
        ]
        for each in found
    ]


COLUMNS = ["peer", "slots", "hold, ms", "pause, ms", "use, %", "hand-over p50, ms", "p95, ms"]
COLUMNS += [
    "longest by mean wait",
    "overtaken, %",
    "most over the cap",
    "server's CPU a turn, µs",
    "commands a turn",
]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.questions.fleet", description=__doc__)
    parser.add_argument("--peers", type=lambda text: text.split(","), default=[peer.name for peer in PEERS])
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--seconds", type=float, default=4.0, help="that each case is watched at least (4)")
    parser.add_argument("--write", action="store_true", help="write bench/results.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fleet-") as scratch:
        os.chmod(scratch, 0o711)  # PostgreSQL's user has a directory in there
        forget_settings(scratch)
        with Servers(Path(scratch)) as servers:
            found = rows(side_by_side(servers, options))
    print("\n".join(table(COLUMNS, found)))
    if options.write:
        title = f"Slots across machines: {options.clients} clients on one host, beside others"
        keep("fleet", title, "bench.questions.fleet", COLUMNS, found, NOTES)


NOTES = [
    "Bars, 100 ms: hand-over p50 2 ms, p95 5 ms, use 98 %; 10 ms: use 88 %; 5 commands a turn; none over.",
    "Without a pause polling looks best: whoever lets go takes the slot again at once, before others look.",
]


if __name__ == "__main__":
    main()
