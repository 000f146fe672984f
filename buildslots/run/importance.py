"""How important the command is to the kernel: niceness, class of I/O, who goes first when memory is out.

Set on slot-run itself right before the command starts, which inherits it. Loaded only where somebody says so.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from buildslots.settings import Settings

OOM_SCORE_ADJ = "/proc/self/oom_score_adj"
"""proc_pid_oom_score_adj(5); children inherit it."""


def apply(settings: Settings, say: Callable[[str], None]) -> None:
    """Be as important as the settings want it; `say` is told in a line each what could not be done.

    A config file only makes a command less important than slot-run was started: `nice -n 19 slot-run` stays
    at 19. `--nice` says it for this one run, and counts as it is, as far as the kernel lets us.
    """
    for name, one in (("nice", _nice), ("ionice", _ionice), ("oom_score_adj", _oom_score_adj)):
        value, source = settings.said.get(name, (None, ""))
        if value is None:
            continue
        try:
            one(value, source == "option")
        except Exception as error:  # noqa: BLE001 - whatever it is, the command runs, only as it would have
            reason = getattr(error, "strerror", None) or str(error) or repr(error)
            whose = f"--{name}" if source == "option" else source
            say(f"{whose}: {value} cannot be had here: {reason}; running without")


def _nice(value: int, is_exact: bool) -> None:
    if sys.platform == "win32":
        import psutil  # noqa: PLC0415

        # Of all classes below these two alone are inherited: CreateProcess, "dwCreationFlags".
        low = psutil.IDLE_PRIORITY_CLASS if value >= LOWEST else psutil.BELOW_NORMAL_PRIORITY_CLASS
        psutil.Process().nice(low if value > 0 else psutil.NORMAL_PRIORITY_CLASS)
    elif is_exact or value > os.getpriority(os.PRIO_PROCESS, 0):
        os.setpriority(os.PRIO_PROCESS, 0, value)


LOWEST = 15
"""From this niceness on, a process of Windows runs only when nothing else wants to."""


def _ionice(_: str, __: bool) -> None:
    import psutil  # noqa: PLC0415 - 25 ms, for those who ask for it: Python itself cannot

    if sys.platform == "win32":
        psutil.Process().ionice(psutil.IOPRIO_VERYLOW)
    elif sys.platform == "linux":
        psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)  # ioprio_set(2)


def _oom_score_adj(value: int, _: bool) -> None:
    if sys.platform != "linux":
        return
    with open(OOM_SCORE_ADJ, "r+", encoding="ascii") as file:
        if value > int(file.read()):
            file.seek(0)
            file.write(str(value))
