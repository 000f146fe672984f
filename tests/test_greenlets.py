"""Programs in which eventlet or gevent has replaced what a wait relies on."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING

import pytest
from builds import wait_until

if TYPE_CHECKING:
    from builds import Pool

# eventlet's monkey_patch removes these (eventlet/green/select.py), gevent's the second half (gevent/monkey).
STRIPPED = """
import select
for name in ("poll", "epoll", "devpoll", "kqueue", "kevent"):
    if hasattr(select, name): delattr(select, name)
import threading
"""
EVENTLET = """
import warnings
warnings.simplefilter("ignore")
import eventlet
eventlet.monkey_patch()
import threading
"""
GEVENT = "from gevent import monkey; monkey.patch_all(); import threading"
PATCHES = [
    STRIPPED,
    *(
        pytest.param(
            patch, marks=pytest.mark.skipif(not importlib.util.find_spec(name), reason=f"no {name} here")
        )
        for name, patch in (("eventlet", EVENTLET), ("gevent", GEVENT))
    ),
]

CROWD = """
from buildslots import SlotPool
pool, running, peak, done = SlotPool(slots=2, timeout=None), 0, 0, 0
go = threading.Event()
def work():
    global running, peak, done
    with pool.acquire():
        running += 1
        peak = max(peak, running)
        if running == 2: go.set()
        go.wait()
        running -= 1
        done += 1
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(peak, done)
"""


@pytest.mark.parametrize("patch", PATCHES, ids=["stripped", "eventlet", "gevent"])
def test_threads_wait_without_select_poll(pool: Pool, patch: str) -> None:
    """In line behind each other, until each has had its slot."""
    result = pool.run(sys.executable, "-c", patch + CROWD)
    assert (result.stdout, result.stderr) == ("2 8\n", "")
    assert (pool.held(), pool.leftovers()) == ([], [])


@pytest.mark.parametrize("first", [0, 1024], ids=["", "beyond what select(2) can wait for"])
def test_a_wait_without_select_poll_hears_the_release(pool: Pool, first: int) -> None:
    """Also where the descriptors have numbers from 1024 on (FD_SETSIZE, select(2))."""
    holder = pool.build("-n1")
    holder.started()
    program = (
        f"{STRIPPED}\n"
        "import os, resource\n"
        "soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))\n"
        f"while os.open('/dev/null', os.O_RDONLY) < {first}: pass\n"
        "from buildslots import SlotPool\n"
        "print(SlotPool(slots=1, timeout=None).acquire().number, flush=True)\n"
    )
    waiter = pool.popen(sys.executable, "-c", program)
    wait_until(lambda: pool.status().waiters, "a waiter")
    holder.finish()
    assert waiter.started() == "0"
    assert waiter.errors() == ""


def test_tasks_wait_without_select_epoll(pool: Pool) -> None:
    """In an event loop that was chosen before the names went away."""
    program = (
        "import asyncio, selectors\n"
        f"{STRIPPED}\n"
        "from buildslots import SlotPool\n"
        "pool, order = SlotPool(slots=1, timeout=None), []\n"
        "async def work(number):\n"
        "    with await pool.acquire_async(): order.append(number); await asyncio.sleep(0)\n"
        "async def main(): await asyncio.gather(*map(work, range(4)))\n"
        "asyncio.run(main())\n"
        "print(sorted(order))\n"
    )
    result = pool.run(sys.executable, "-c", program)
    assert (result.stdout, result.stderr) == ("[0, 1, 2, 3]\n", "")
