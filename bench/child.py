"""A question to a library is asked in a process of its own, in the Python that the library is installed for.

So two installs of buildslots can be asked in turn. The process imports buildslots as its users do, and after
that what it needs of `bench` from this checkout, which comes first on its path then: an editable install may
have a `bench` of its own beside it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bench import questions
from bench.kit.crowds import Failed
from bench.kit.question import LibraryCase, Setting
from bench.kit.shell import CHECKOUT

if TYPE_CHECKING:
    from bench.kit.question import LibraryQuestion, Values

PROGRAM = "import sys, buildslots; sys.path.insert(0, sys.argv[1]); from bench.child import main; main()"


def ask(question: LibraryQuestion, python: str, case: LibraryCase) -> Values:
    """Ask `question` of the library of `case`, as `python` imports it.

    Raises:
        Failed: The library did not go through it.
    """
    setting = case.setting
    words = [question.name, case.name, str(case.scratch)]
    words += [str(setting.contenders), str(setting.pause_s), str(int(setting.quick))]
    child = subprocess.Popen(
        [python, "-P", "-c", PROGRAM, str(CHECKOUT), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # its contenders end with it, whatever happens
    )
    try:
        answer, errors = child.communicate(timeout=question.longest_s * 1.5)
    except subprocess.TimeoutExpired as error:
        raise Failed("it hangs") from error
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
    if child.returncode:
        raise Failed((errors.strip() or f"exit status {child.returncode}").splitlines()[-1])
    values: Values = json.loads(answer)
    return values


def main() -> None:
    """Ask what the command line says, in this process."""
    name, peer, scratch, contenders, pause_s, quick = sys.argv[2:]
    (question,) = (each for each in questions.LIBRARIES if each.name == name)
    case = LibraryCase(peer, Path(scratch), Setting(int(contenders), float(pause_s), quick == "1"))
    try:
        print(json.dumps(question.ask(case)))
    except Failed as error:
        raise SystemExit(str(error)) from error
