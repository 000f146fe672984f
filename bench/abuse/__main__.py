"""The command line: one run of the driver with the referee beside it, and what came of it.

Exit status 1 if anything happened that is against the rules: what, when and the last marks of those concerned
are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from bench.abuse.after import look_after
from bench.abuse.driver import TOP, Driver
from bench.abuse.rulers import Mix
from bench.report.page import KEPT, render

if TYPE_CHECKING:
    from typing import Any, NoReturn

    Outcome = dict[str, Any]

RULES = (
    "degraded",
    "over-admissions",
    "lost slots",
    "lost tickets",
    "order violations",
    "stranded",
    "idle slots",
    "late",
    "starts in a pause",
    "lost rules",
)
RESULT = KEPT / "abuse.json"


def main() -> int:
    """Run; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.abuse", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--kills", type=int, default=None, help="end after so many")
    parser.add_argument("--slots", type=int, default=3)
    parser.add_argument("--processes", type=int, default=24, help="workers at a time")
    parser.add_argument("--priorities", type=float, default=0.3, help="how many of the builds have one")
    parser.add_argument("--rule-changes", type=float, default=0.3, help="of the pool, in a second")
    parser.add_argument("--pauses", type=float, default=0.1, help="of the pool, in a second")
    parser.add_argument("--length", type=float, default=1.0, help="of episodes, against the usual")
    parser.add_argument(
        "--slack", type=float, default=1.0, help="seconds more that a loaded machine may take"
    )
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.name}")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(10**6)
    print(f"seed {options.seed}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="abuse-") as scratch:
        for name in [name for name in os.environ if name.startswith(("BUILD_SLOT", "MAX_CONCURRENT_BUILDS"))]:
            del os.environ[name]
        os.environ |= {"XDG_STATE_HOME": f"{scratch}/state", "XDG_CONFIG_HOME": f"{scratch}/config"}
        outcome = run(scratch, options)
    outcome["seconds"] = time.monotonic() - began
    wrong = report(outcome)
    if options.write:
        write(outcome, options)
        render()
    return 1 if wrong else 0


def run(scratch: str, options: argparse.Namespace) -> Outcome:
    """One run in the directory `scratch`."""
    mix = Mix(options.priorities, options.rule_changes, options.pauses)
    driver = Driver(scratch, seed=options.seed, slots=options.slots, workers=options.processes, mix=mix)
    results = {who: os.path.join(scratch, f"{who}.json") for who in ("driver", "referee")}
    command = [
        sys.executable,
        "-m",
        "bench.abuse.referee",
        driver.table.path,
        driver.pool,
        results["referee"],
    ]
    command.append(str(options.slack))
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=os.environ | {"PYTHONPATH": TOP}) as referee:
        assert referee.stdin is not None
        pid = os.fork()  # a process that has no children but those that it abuses
        if pid == 0:
            referee.stdin.close()
            drive(driver, results["driver"], options)
        problems = [] if os.waitpid(pid, 0)[1] == 0 else ["the driver failed"]
        referee.stdin.close()
        if referee.wait():
            problems.append("the referee failed")
    problems += look_after(driver.pool, options.slots)
    outcome: Outcome = {"counts": {}, "worst_ns": {}, "episodes": {}, "problems": []}
    for path in results.values():
        if os.path.exists(path):
            for name, values in json.loads(Path(path).read_text()).items():
                outcome[name] = outcome[name] | values if isinstance(values, dict) else outcome[name] + values
    outcome["problems"] += problems
    return outcome


def drive(driver: Driver, result: str, options: argparse.Namespace) -> NoReturn:
    """Run `driver` in this process, and leave what it has counted in the file `result`."""
    status = 1
    try:
        driver.run(options.minutes * 60, options.kills, length=options.length)
        counted = {"counts": driver.counts, "episodes": driver.episodes, "problems": driver.problems}
        Path(result).write_text(json.dumps(counted))
        status = 0
    except BaseException:  # noqa: BLE001 - a forked process must not return from here
        traceback.print_exc()
    finally:
        driver.kill_all()
        os._exit(status)


def report(outcome: Outcome) -> bool:
    """Print what came of it; whether anything is against the rules."""
    counts = outcome["counts"]
    for name, value in rows(outcome):
        print(f"{name}: {value}")
    for problem in outcome["problems"]:
        print(problem)
    return bool(outcome["problems"]) or any(counts.get(rule) for rule in RULES) or counts.get("wedged", 0) > 0


def rows(outcome: Outcome) -> list[list[str]]:
    """What is to be known of a run: what, and how much."""
    counts, worst = outcome["counts"], outcome["worst_ns"]

    def count(*names: str) -> str:
        return ", ".join(str(counts.get(name, 0)) for name in names)

    def seconds(name: str) -> str:
        return f"{worst.get(name, 0) / 1e9:.2f} s"

    episodes = ", ".join(f"{name} {number}" for name, number in outcome["episodes"].items())
    return [
        ["duration", f"{outcome['seconds']:.0f} s"],
        ["episodes", episodes],
        ["processes killed with SIGKILL", count("kills")],
        [
            "stopped; interrupted; terminated; pool directory removed",
            count("stops", "interrupts", "terminations", "removals"),
        ],
        [
            "builds that had slots; of these overflow, foreign locks",
            count("acquisitions", "overflow", "foreign"),
        ],
        ["waits that ended in a slot within the cap", count("waits")],
        ["the same in crowds; crowds", count("waits in crowds", "crowds")],
        ["refused or interrupted; without a slot", count("refused", "degraded")],
        ["asked again within a build, and had its slot", count("nested")],
        ["descriptors, without a lock, that an interrupt has leaked", count("leaked")],
        [
            "real slot-runs; status and doctor; builds on a full disk",
            count("slot-runs", "lookers", "full-disk builds"),
        ],
        ["rules of the pool that were set; tries", count("rules set", "setters")],
        ["times that another file became the mutex, removals among them", count("mutexes lost")],
        ["over-admissions; starts in a pause", count("over-admissions", "starts in a pause")],
        ["lost slots; lost tickets; lost rules", count("lost slots", "lost tickets", "lost rules")],
        ["order violations", count("order violations")],
        ["wedged; late after a timeout", count("wedged", "late")],
        ["crowds of which nobody was in line", count("stranded")],
        ["slots that lay idle too long", count("idle slots")],
        ["longest that a slot lay idle with somebody waiting", seconds("idle")],
        ["the same while processes were stopped", seconds("idle behind stopped ones")],
        ["longest wait after a timeout", seconds("late")],
    ]


def write(outcome: Outcome, options: argparse.Namespace) -> None:
    """Write the figures for the table of results."""
    size = f"--slots {options.slots} --processes {options.processes} --priorities {options.priorities:g}"
    size += f" --rule-changes {options.rule_changes:g} --pauses {options.pauses:g}"
    limit = f" --kills {options.kills}" if options.kills else ""
    text = {
        "title": "Abuse: builds that are killed, stopped and robbed of their pool",
        "command": f"python -m bench.abuse --minutes {options.minutes:g} --seed {options.seed}{limit} {size}",
        "environment": {
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.release()}",
            "python": platform.python_version(),
        },
        "columns": ["what", "figure", "seed", "duration"],
        "rows": [[*row, str(options.seed), f"{outcome['seconds']:.0f} s"] for row in rows(outcome)[1:]],
        "notes": [
            "The referee does not import buildslots; what it does not check is said in its module.",
            "Idle times are by looks 0.2 s apart, and under the load of the run itself.",
        ],
    }
    RESULT.write_text(json.dumps(text, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
