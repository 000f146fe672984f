"""One contract for clients of every kind, alone and mixed in one pool: peak, order, crash, cancellation."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import cycle
from multiprocessing import forkserver
from typing import TYPE_CHECKING

import clients
import pytest
from builds import DEADLINE_S, Build, Pool, wait_until

from buildslots import SlotPool, build_slot

if TYPE_CHECKING:
    from collections.abc import Callable

MIX = "mix"


class Clients:
    """Clients of one kind, or of all in turn, that go for the slots of one pool."""

    def __init__(self, pool: Pool, kind: str) -> None:
        self.pool = pool
        self._kinds = cycle(clients.KINDS if kind == MIX else [kind])
        self.kinds: dict[Build, str] = {}

    def start(self, slots: int) -> Build:
        """One that may or may not have to wait."""
        kind = next(self._kinds)
        client = clients.start(self.pool, kind, slots)
        self.kinds[client] = kind
        return client

    def start_all(self, count: int, slots: int) -> list[Build]:
        """So many, in line in this order behind those that have a slot."""
        all_ = []
        for number in range(count):
            client = self.start(slots)
            all_.append(client)
            if number < slots:
                client.started()
            else:
                line = number + 1 - slots
                wait_until(lambda line=line: len(self.pool.status().waiters) == line, "one more in line")
        return all_


@pytest.fixture(params=[*clients.KINDS, MIX])
def some(request: pytest.FixtureRequest, pool: Pool) -> Clients:
    return Clients(pool, request.param)


def test_peak(some: Clients) -> None:
    """Four on two slots: two have one at all times, and when one ends the next starts."""
    waiting = some.start_all(4, 2)
    running = [waiting.pop(0), waiting.pop(0)]
    while waiting:
        assert some.pool.held() == [0, 1]
        assert not any(client.is_started() for client in waiting)
        running.pop(0).finish()
        running.append(waiting.pop(0))
        assert running[-1].started() in {"0", "1"}
    assert [client.finish() for client in running] == [0, 0]
    assert (some.pool.held(), some.pool.leftovers()) == ([], [])


def test_order(some: Clients) -> None:
    """Each starts when all before it have."""
    running, *waiting = some.start_all(4, 1)
    assert [w.pid for w in some.pool.status().waiters] == [client.pid for client in waiting]
    for client in waiting:
        assert not client.is_started()
        running.finish()
        assert client.started() == "0"
        running = client
    running.finish()


def test_crash(some: Clients) -> None:
    """SIGKILL to whoever waits and to whoever holds lets the next one start."""
    holder, head, second, last = some.start_all(4, 1)
    head.process.kill()
    head.process.wait(DEADLINE_S)
    if some.kinds[holder] == "slot-run":  # its build lives on, and keeps the slot
        assert holder.process.stdin is not None
        holder.process.kill()
        holder.process.stdin.close()
    holder.process.kill()
    holder.process.wait(DEADLINE_S)
    assert second.started() == "0"
    assert not last.is_started()
    second.finish()
    assert last.started() == "0"
    last.finish()
    SlotPool(slots=1).acquire().release()
    assert (some.pool.held(), some.pool.leftovers()) == ([], [])


def test_cancellation(some: Clients) -> None:
    """Whoever is cancelled in the middle of the line, or at its head, leaves it, and nothing behind."""
    holder, head, second, last = some.start_all(4, 1)
    for client, left in ((second, 2), (head, 1)):
        assert clients.cancel(client, some.kinds[client]) == 0
        assert len(some.pool.status().waiters) == left
        assert len({name.split("-")[0] for name in some.pool.leftovers()}) == left
    holder.finish()
    assert last.started() == "0"
    last.finish()
    assert (some.pool.held(), some.pool.leftovers()) == ([], [])


# Processes and threads of Python's own pools.


def spans(path: str) -> tuple[int, int]:
    """How many held a slot at once at most, and how often one was held."""
    with open(path, encoding="ascii") as file:
        text = file.read()
    running = peak = 0
    for sign in text:
        running += 1 if sign == "+" else -1
        peak = max(peak, running)
    assert running == 0
    return peak, len(text) // 2


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_process_pools(pool: Pool, method: str) -> None:
    """A pool that was pickled, or forked, is the same pool there, whatever their environment."""
    log = pool.dir.parent / "log"
    log.touch()
    context = multiprocessing.get_context(method)
    two = SlotPool(slots=2, timeout=None)
    with ProcessPoolExecutor(4, mp_context=context) as executor:
        jobs = [executor.submit(clients.log_spans, two, str(log), 10) for _ in range(8)]
        pids = {job.result(DEADLINE_S) for job in jobs}
    if method == "forkserver":
        forkserver._forkserver._stop()  # it would stay for the next one who uses it
    peak, count = spans(str(log))
    assert os.getpid() not in pids
    assert (peak <= 2, count) == (True, 80)
    assert (pool.held(), pool.leftovers()) == ([], [])


def test_thread_pools(pool: Pool) -> None:
    """One object serves all threads."""
    log = pool.dir.parent / "log"
    log.touch()
    two = SlotPool(slots=2, timeout=None)
    with ThreadPoolExecutor(8) as executor:
        list(executor.map(lambda _: clients.log_spans(two, str(log), 10), range(8)))
    peak, count = spans(str(log))
    assert (peak <= 2, count) == (True, 80)
    assert (pool.held(), pool.leftovers()) == ([], [])


@pytest.mark.parametrize("make", [SlotPool, build_slot])
def test_pickled(pool: Pool, make: Callable[..., SlotPool], monkeypatch: pytest.MonkeyPatch) -> None:
    """Pools and blocks keep their settings, also where the environment says something else."""
    before = make("link", slots=2, timeout=5, gates=None)
    monkeypatch.setenv("BUILD_SLOTS_DIR", str(pool.dir.parent / "other"))
    after = pickle.loads(pickle.dumps(before))
    with after if make is build_slot else after.acquire() as slot:
        assert (slot.pool, slot.number, pickle.loads(pickle.dumps(before)) is before) == ("link", 0, False)
        assert (pool.dir / "pools" / "link" / "slot-0").exists()
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(slot)
        pickle.dumps(after)  # what it holds stays here


def test_a_forked_child_drops_a_wait_of_its_parent(pool: Pool) -> None:
    """It neither leaves the line for it, nor tells the journal that it gave up."""
    from buildslots.admission import Admission  # noqa: PLC0415
    from buildslots.settings import resolve  # noqa: PLC0415
    from buildslots.settings.places import state_dir  # noqa: PLC0415

    with SlotPool(slots=1).acquire():
        admission = Admission(resolve(slots=1, warn=print), ["make"])
        steps = admission.steps()
        next(steps)
        child = os.fork()
        if not child:
            steps.close()
            admission.close(KeyboardInterrupt())
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert len(pool.status().waiters) == 1
        journal = os.path.join(state_dir(os.environ), "journal.jsonl")
        with open(journal, encoding="ascii") as file:
            assert "gave_up" not in file.read()
        steps.close()
        admission.close(KeyboardInterrupt())
        with open(journal, encoding="ascii") as file:
            assert "gave_up" in file.read()
    assert (pool.held(), pool.leftovers()) == ([], [])


def test_an_interrupt_leaves_nothing(pool: Pool) -> None:
    """Ctrl-C ends every kind of wait, and the line is empty."""
    some = Clients(pool, MIX)
    holder, *waiting = some.start_all(1 + len(clients.KINDS), 1)
    for client in waiting:
        client.process.send_signal(signal.SIGINT)
        client.process.wait(DEADLINE_S)
        assert client.process.returncode != 0
    wait_until(lambda: not pool.status().waiters, "nobody in line")
    assert pool.leftovers() == []
    holder.finish()
