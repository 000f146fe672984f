"""The benchmark: ourselves and others, in one session, in turn (Linux only).

`python -m bench` asks all questions; `--quick` takes three minutes. `python -m bench --speed [--against
WHICH]` asks those of the verdict, of ourselves alone, in turn with another install. Both write
bench/results/ and bench/results.md. `python -m bench --only QUESTION,... [--peers P,...] [--contenders
N,...]` prints tables.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.kit import installs
from bench.kit.libraries import LIBRARIES
from bench.kit.peers import BARE, COMMANDS, OURS
from bench.kit.shell import Missing, forget_settings, say
from bench.questions import QUESTIONS
from bench.report import page
from bench.report.rows import Results
from bench.report.verdict import verdict
from bench.session import Session

if TYPE_CHECKING:
    from bench.kit.installs import Install

NAMES = list(dict.fromkeys(question.name for question in QUESTIONS))
PEERS = [OURS, BARE, *COMMANDS, *LIBRARIES]
BEFORE = "before"
WHICH = "a virtual environment or its bin, or a commit, which is installed as its README says"


def main() -> int:
    options = parse()
    if not sys.platform.startswith("linux"):
        raise SystemExit("python -m bench needs Linux: it reads /proc")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also in the background of a shell
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # with all that it started
    if options.render:
        page.render()
        return 0
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        forget_settings(scratch)
        try:
            results = measured(options, Path(scratch))
        except Missing as error:
            say(str(error))
            return 1
    if not results.samples:
        say("nothing was measured: none of these peers can be had, or none is asked that")
        say("".join(f"{peer}: {why}\n" for peer, why in results.missing.items()))
        return 1
    partial = bool(options.only or options.peers or options.contenders)
    if options.write or not partial:
        results.write(page.KEPT / f"{page.SPEED if options.speed else page.PEERS}.ndjson")
        page.render()
        say(f"wrote {page.PAGE}")
    if options.speed:
        print("\n".join(verdict(results)))
    if partial:
        print(page.report(results))
    return 0


def measured(options: argparse.Namespace, scratch: Path) -> Results:
    """One session in the directory `scratch`.

    Raises:
        Missing: An install could not be had.
    """
    began = time.monotonic()
    found = [installs.find(options.install, scratch)]
    if options.against:
        found.append(installs.find(options.against, scratch, BEFORE))
    session = Session(options, scratch, found)
    about = said(options, found) | session.run()
    about["duration"] = f"{time.monotonic() - began:.0f} s"
    return Results(about, session.missing, session.samples)


def said(options: argparse.Namespace, found: list[Install]) -> dict[str, str]:
    """What was asked, and of what."""
    words = [os.path.basename(word.rstrip("/")) if word.startswith("/") else word for word in sys.argv[1:]]
    about = {"command": shlex.join(["python", "-m", "bench", *words])}
    about |= {install.side or "measured": install.about for install in found}
    if options.quick:
        about["options"] = "--quick"
    if options.against:
        about["beside"] = BEFORE
    return about


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="fewer contenders and repetitions: three minutes"
    )
    parser.add_argument(
        "--speed", action="store_true", help="what the verdict needs, of ourselves: ten minutes"
    )
    parser.add_argument("--install", default="", metavar="WHICH", help=f"in place of the checkout: {WHICH}")
    parser.add_argument("--against", default="", metavar="WHICH", help="another install of ours, in turn")
    parser.add_argument(
        "--only", type=one_of(NAMES), default=[], metavar="QUESTION,...", help=", ".join(NAMES)
    )
    parser.add_argument("--peers", type=one_of(PEERS), default=[], metavar="PEER,...", help=", ".join(PEERS))
    parser.add_argument(
        "--contenders", type=numbers, default=[], metavar="N,...", help="for the questions where it varies"
    )
    parser.add_argument("--write", action="store_true", help="write the files also if not all was asked")
    parser.add_argument("--render", action="store_true", help="write results.md from what is there, only")
    return parser.parse_args()


class one_of:  # noqa: N801 - used like a function, and named in argparse's messages
    """A comma-separated list of some of `names`."""

    def __init__(self, names: list[str]) -> None:
        self._names = names

    def __call__(self, text: str) -> list[str]:
        """The chosen names."""
        chosen = text.split(",")
        if unknown := [name for name in chosen if name not in self._names]:
            raise argparse.ArgumentTypeError(f"no {unknown[0]!r} among {', '.join(self._names)}")
        return chosen


def numbers(text: str) -> list[int]:
    """A comma-separated list of positive numbers."""
    try:
        chosen = [int(word) for word in text.split(",")]
    except ValueError:
        chosen = []
    if not chosen or min(chosen) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of positive numbers")
    return chosen


if __name__ == "__main__":
    sys.exit(main())
