"""The others in the pool: who holds a slot, who is first in line, whose outer slot it is.

They are objects of the library in this process, and so hold and wait as any builds do.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from pathlib import Path

from buildslots import Slot, SlotPool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bench.faults.scenarios import Scenario

LIMIT_S = 10.0
"""For how long others wait at most. Only a broken promise makes them."""
JOIN_S = 1.0
"""After so long the slot is let go, whether the process under test is in line or not."""
LOOKS = 3
"""How often in a row it has to be asleep, so that it is not just paused between two system calls."""
SETTLE_S = 0.02
TAKEN = "slot 0 was taken while somebody held it"
DEAD = "00000000000000000001-1"


def is_locked(path: Path) -> bool:
    """Whether somebody has the lock of the file at `path`."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


class Stage:
    """A pool in the state that a scenario begins with.

    Attributes:
        dir: The directory of the pool that is used.
        environ: What the process under test needs to find it.
        others: What went wrong for the others, or "".
    """

    def __init__(self, scenario: Scenario, own: Path) -> None:
        """Set it up below the directory `own`."""
        self._scenario = scenario
        self._log = own / "log"
        default = own / "pool"
        self.dir = default / "pools" / "link" if "link" in scenario.options else default
        self.environ = {"BUILD_SLOTS_DIR": str(default)}
        self.others = ""
        self._holder: Slot | None = None
        self._first: threading.Thread | None = None
        self._first_names: set[str] = set()
        self._asleep = 0
        self._began = time.monotonic()
        stage = scenario.stage
        if stage.startswith("group"):
            default.mkdir()
            default.chmod(0o2770)
        elif stage != "new":
            self._pool(2).acquire(weight=2).release()
        if stage == "dead":
            (default / "queue" / DEAD).touch()
        if stage in ("held", "group-held", "line", "outer"):
            self._holder = self._pool(1).acquire()
        if stage == "outer" and self._holder:
            self.environ = self._holder.environ(self.environ)
        if stage == "line":
            self._first = threading.Thread(target=self._wait_first, daemon=True)
            self._first.start()
            while not (names := self._tickets()):
                time.sleep(0.001)
            self._first_names = set(names)
            time.sleep(SETTLE_S)

    def _pool(self, slots: int, timeout: float = LIMIT_S) -> SlotPool:
        return SlotPool("default", slots=slots, timeout=timeout, dir=self.environ["BUILD_SLOTS_DIR"])

    def _wait_first(self) -> None:
        slot = self._pool(1).acquire()
        if slot.number != 0:
            self.others = f"the first in line got slot {slot.number}"
        time.sleep(SETTLE_S)
        slot.release()

    def _tickets(self) -> list[str]:
        try:
            return [name for name in os.listdir(self.dir / "queue") if is_locked(self.dir / "queue" / name)]
        except OSError:
            return []

    def play(self, pid: int | None, stderr: Path) -> None:
        """Do what is due, while the process under test is `pid`, if that is known, and has said `stderr`."""
        if not self._scenario.release or self._holder is None:
            return
        late = time.monotonic() - self._began > JOIN_S
        if self._scenario.release == "told" and b"waiting" not in stderr.read_bytes():
            if time.monotonic() - self._began > JOIN_S * 2:
                self._let_go()
            return
        asleep = pid is not None and _is_asleep(pid) and bool(set(self._tickets()) - self._first_names)
        self._asleep = self._asleep + 1 if asleep else 0
        if late or self._asleep == LOOKS:
            self._let_go()

    def _let_go(self) -> None:
        if self._holder is not None:
            ran = self._log.read_text() if self._log.exists() else ""
            if "began 0" in ran and self._scenario.where_nested is None:
                self.others = TAKEN
            self._holder.release()
            self._holder = None

    def end(self) -> None:
        """The process under test has ended: let go of all."""
        self._let_go()
        if self._first is not None:
            self._first.join(LIMIT_S)
            if self._first.is_alive():
                self.others = "the first in line still waits"

    def live(self) -> list[str]:
        """The tickets of those who are in line."""
        return self._tickets()

    def is_free(self) -> bool:
        """Whether a build that wants to be the only one gets slot 0 at once, as `slot-run -n1 -t0` does."""
        name = "link" if "link" in self._scenario.options else "default"
        pool = SlotPool(name, slots=1, dir=self.environ["BUILD_SLOTS_DIR"])
        slot = pool.try_acquire()
        if slot is None:
            return False
        slot.release()
        return slot.number == 0


def _is_asleep(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"
    except OSError:
        return False
