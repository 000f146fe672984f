"""A short storm of bench/fleet over hosts that are cut off, and its referee."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from benches import TOP, said

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.linux

DEADLINE_S = 120.0
S = 1_000_000_000
LEASE_S = 3.0


def test_a_storm_over_two_hosts() -> None:
    """Builds are killed, hosts cut off, the server is restarted: no more run than the manual says."""
    out = said("bench.fleet", "--seconds=8", "--hosts=2", "--clients=4", "--seed=1", deadline_s=DEADLINE_S)
    figures = dict(line.split(": ", 1) for line in out.splitlines() if ": " in line)
    assert int(figures["builds that ran"]) > 5, out
    missed, looks = figures["looks at which one that runs was not counted, of all"].split(" of ")
    assert int(looks) > 10, out
    assert int(missed) == 0, out


@pytest.fixture
def referee(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Judges of a log, marks and looks."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(TOP)])  # last: buildslots is the one that is installed
    from bench.fleet.referee import Mark, Seen, judge  # noqa: PLC0415

    return SimpleNamespace(Mark=Mark, Seen=Seen, judge=judge)


def judged(
    referee: SimpleNamespace, scratch: Path, done: list[tuple[float, str]], names: set[str]
) -> SimpleNamespace:
    """Three builds on two slots, from seconds 1, 2 and 10 to 20, and a look in between at second 15."""
    log = scratch / "log"
    began = {"b1": 1, "b2": 2, "b3": 10}
    log.write_text("".join(f"+ {name} {at * S}\n- {name} {20 * S}\n" for name, at in began.items()))
    marks = [referee.Mark(0, "on", name, host) for host, name in enumerate(began, 1)]
    marks += [referee.Mark(int(at * S), what, "b1", 1) for at, what in done]
    seen = [referee.Seen(15 * S, len(names), 1, frozenset(names))]
    return referee.judge(log, marks, seen, 2, LEASE_S, 30 * S)


def test_who_runs_beyond_the_cap_without_a_reason_is_found(referee: SimpleNamespace, tmp_path: Path) -> None:
    """One that was not heard for a lease may; one that stood still for an instant may not."""
    everyone = {"b1", "b2", "b3"}
    short, long = [(3, "stop"), (3.5, "go on")], [(3, "stop"), (9, "go on")]
    for done, beyond in (([], 1), (short, 1), (long, 0), ([(3, "cut"), (9, "heal")], 0)):
        verdict = judged(referee, tmp_path, done, everyone)
        assert (verdict.most, len(verdict.beyond), verdict.uncounted) == (3, beyond, []), done


def test_who_is_not_known_to_the_server_is_found(referee: SimpleNamespace, tmp_path: Path) -> None:
    """Unless the server cannot have heard of it."""
    for done, missed in (([], 1), ([(13, "cut"), (16, "heal")], 0)):
        assert len(judged(referee, tmp_path, done, {"b2", "b3"}).uncounted) == missed, done
