"""Eight real builds at once, and how many of them slot-run lets compile at the same time.

`python -m bench.real_builds [--slots K] [--builds N] [--keep DIR]` builds N PyPI sdists that contain C or
C++, each with `slot-run --slots K … -- pip wheel --no-binary :all: --no-deps --no-build-isolation …`, all
started together, and then once more without slot-run. It shows three things:

- safety: compilers of no more than K different builds are ever alive together, nor are more than K builds;
- use: K of them are, so that the slots are not merely safe because they lie idle;
- that the instrument can see more than K: without slot-run it does.

How they are prepared, run and recorded: see `bench.workshop`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.workshop import Round, Span, Workshop, run, run_round

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGES = (
    "greenlet==3.2.3",
    "msgpack==1.1.1",
    "bitarray==3.4.2",
    "xxhash==3.5.0",
    "psutil==7.0.0",
    "simplejson==3.20.1",
    "coverage==7.9.2",
    "pyrsistent==0.20.0",
)
"""Sdists that need only libc, setuptools and no Cython, and compile for 1 to 5 s on Python 3.11 to 3.13."""


def report(slots: int, slotted: Round, free: Round) -> int:
    """Print what was recorded; the exit status."""
    print(f"{'build':<14}{'waited':>9}{'ran':>9}{'compilers':>11}{'ok':>5}{'ran without slot-run':>23}")
    for build, contrast in zip(slotted.builds, free.builds, strict=True):
        waited = _seconds([Span(build.launched_ns, span.start_ns) for span in build.ran])
        ok = "yes" if build.ok and contrast.ok else "NO"
        print(
            f"{build.name:<14}{waited:>9}{_seconds(build.ran):>9}{len(build.compilers):>11}{ok:>5}"
            f"{_seconds(contrast.ran):>23}"
        )
    print(f"\n{'':<26}{f'slot-run, K={slots}':>16}{'without':>11}")
    print(f"{'wall time':<26}{f'{slotted.wall_s:.1f} s':>16}{f'{free.wall_s:.1f} s':>11}")
    for title, with_slots, without in (
        ("builds compiling at once", slotted.compiling, free.compiling),
        ("builds running at once", slotted.running, free.running),
    ):
        print(f"{title:<26}{max(with_slots, default=0):>16}{max(without, default=0):>11}")
    print(f"\ntime by number of builds compiling: with slot-run {_shares(slotted.compiling)}; ", end="")
    print(f"without {_shares(free.compiling)}")
    problems = list(_problems(slots, slotted, free))
    for line in [*_notes(slots, slotted, free), *problems]:
        print(line)
    return 1 if problems else 0


def _problems(slots: int, slotted: Round, free: Round) -> Iterator[str]:
    for which, round_ in (("with slot-run", slotted), ("without", free)):
        for build in round_.builds:
            if not build.ok:
                yield f"FAIL: {build.name} ({which}): {build.why}"
    for what, seconds in (("compiled", slotted.compiling), ("ran", slotted.running)):
        if max(seconds, default=0) > slots:
            yield f"FAIL: {max(seconds)} builds {what} at once under {slots} slots"
    used = max(slotted.running, default=0)
    if used < min(slots, len(slotted.builds)):
        yield f"FAIL: only {used} builds ever ran at once, though {slots} could have"


def _notes(slots: int, slotted: Round, free: Round) -> Iterator[str]:
    """What this run does not show."""
    together = max(slotted.compiling, default=0)
    if together < min(slots, len(slotted.builds)):
        yield f"note: only {together} builds ever compiled together; the compiles were too short to meet"
    if max(free.compiling, default=0) <= slots:
        yield f"note: without slot-run no more than {slots} builds compiled together either"


def _seconds(spans: list[Span]) -> str:
    return f"{sum(span.end_ns - span.start_ns for span in spans) / 1e9:.1f} s" if spans else "-"


def _shares(seconds: dict[int, float]) -> str:
    return ", ".join(f"{level}: {length:.1f} s" for level, length in seconds.items()) or "none"


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _bench(root: Path, slots: int, builds: int) -> int:
    print(f"preparing {builds} builds in {root}", flush=True)
    workshop = Workshop(root, PACKAGES, builds)
    # For ever: with the default timeout a slow machine would, as promised, run builds as overflow.
    slot_run = [str(workshop.bin / "slot-run"), "--slots", str(slots), "--timeout", "none"]
    print(f"building under {slots} slots, then without slot-run\n", flush=True)
    # In this order what is still cold counts against slot-run.
    slotted = run_round(workshop, "slots", [*slot_run, "--dir", str(root / "pool"), "--"])
    free = run_round(workshop, "free", [])
    return report(slots, slotted, free)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.real_builds", description=__doc__.splitlines()[0])
    parser.add_argument("--slots", type=_count, default=2, metavar="K", help="slots (default 2)")
    parser.add_argument("--builds", type=_count, default=8, metavar="N", help="builds at once (default 8)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work in this new folder and leave it there")
    options = parser.parse_args()
    if not sys.platform.startswith("linux"):
        parser.error("runs on Linux only")
    return run("real-builds", lambda root: _bench(root, options.slots, options.builds), options.keep)


if __name__ == "__main__":
    sys.exit(main())
