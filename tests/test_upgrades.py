"""A program that runs on while the package is upgraded or removed under it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import buildslots

if TYPE_CHECKING:
    from builds import Pool

PROGRAM = """
import asyncio, logging, os, pickle, shutil, sys, threading, warnings
import buildslots
from buildslots import build_slot

assert os.path.dirname(buildslots.__file__) == sys.argv[1], buildslots.__file__
shutil.rmtree(sys.argv[1])
sys.path_importer_cache.clear()
logging.getLogger("buildslots").addHandler(logging.NullHandler())
loaded = {name for name in sys.modules if name.startswith("buildslots")}
assert "buildslots.journal" in loaded, "lines would be lost, silently"

pool = pickle.loads(pickle.dumps(buildslots.SlotPool(slots=1)))
first = pool.acquire()
waiting = threading.Thread(target=lambda: pool.acquire(timeout=None).release())
waiting.start()
while not pool.status().waiters: pass
assert pool.status().holders[0].pid == os.getpid()
first.release()
waiting.join()

with build_slot(slots=1), build_slot(slots=1) as inner:
    assert inner.nested
    over = pool.acquire(0.01)
    assert over.overflow
    over.release()
    try: pool.acquire(0.01, "fail")
    except buildslots.SlotTimeoutError as error: pickle.loads(pickle.dumps(error))
    paced = pool.acquire(0.01, "paced")
    paced.release()
    closed = buildslots.SlotPool(slots=9, gates=buildslots.Gates(min_free_memory=2**60))
    closed.acquire(0.01).release()
    pool.acquire(0).release()
    assert pool.try_acquire() is None
    stop = threading.Event()
    stop.set()
    try: pool.acquire(cancel=stop)
    except buildslots.SlotCancelledError: pass
    if os.fork() == 0:
        with build_slot(slots=1) as nested: os._exit(not nested.nested)
    assert os.wait()[1] == 0

@build_slot(slots=1, weight=2)
async def work():
    await asyncio.sleep(0)

async def main():
    await asyncio.gather(*(work() for _ in range(4)))

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    asyncio.run(main())
    with build_slot(dir=os.devnull) as slot: assert slot.number is None
    try: buildslots.SlotPool(slots=0)
    except buildslots.SettingError: pass
try: first.release()
except buildslots.SlotReleasedError: pass
print(*sorted({name for name in sys.modules if name.startswith("buildslots")} - loaded))
"""


def test_a_removed_package_is_missed_by_nothing(pool: Pool, tmp_path: Path) -> None:
    """Whatever a program does first after that, no module is loaded any more."""
    copy = tmp_path / "lib" / "buildslots"
    shutil.copytree(Path(buildslots.__file__).parent, copy)
    config = Path(pool.environ["HOME"]) / ".config/buildslots/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("[pools.link]\nslots = 1\n")
    program = (sys.executable, "-P", "-W", "error", "-c", PROGRAM, str(copy))
    result = pool.run(*program, environ={"PYTHONPATH": str(copy.parent)}, cwd=tmp_path)
    assert (result.stdout, result.stderr) == ("\n", "")
