"""What a task runs. It imports nothing of ours and little else: it starts in a few milliseconds.

    python -ISs task.py LEDGER PLAN GENERATION SECONDS HOW KEY SEEN

It appends a line to LEDGER at its start, and one at its end, each by one write. Their fields, between tabs:

    start or end, plan, generation, batch, task, slot, pid, monotonic ns, wall clock ns, KEY,
    exit status (end), what it has found (start): "fresh", "stale" or "none" of its stage, and the generations
    of the directories SEEN (paths between colons)

HOW is "well", or "flaky": its first attempt in a batch fails; "fails"; "blocks": it puts a file where its
stage is to go.
"""

import os
import sys
import time
import zlib

MANIFEST = "MANIFEST"
FILES = 4


def main() -> int:
    """Run; the exit status."""
    ledger, plan, generation, seconds, how, key, seen = sys.argv[1:]
    stage = os.environ.get("STAGE")
    found = "none" if stage is None else "stale" if os.listdir(stage) else "fresh"
    found += " " + " ".join(_generation(path) for path in seen.split(":") if path)
    attempt = 1 + _count(ledger, f"\nend\t{plan}\t{generation}\t{_who()}\t")
    _mark(ledger, "start", plan, generation, key, "", found)
    _work(float(seconds), stage, generation)
    if how == "blocks" and stage is not None:
        with open(os.path.join(os.path.dirname(os.path.dirname(stage)), os.environ["BATCH_TASK"]), "x"):
            pass
    status = 3 if how == "fails" else 75 if how == "flaky" and attempt == 1 else 0
    _mark(ledger, "end", plan, generation, key, str(status), "")
    return status


def _work(seconds: float, stage: str | None, generation: str) -> None:
    """Fill `stage`, if there is one, a file at a time, and take so long for it."""
    if stage is None:
        time.sleep(seconds)
        return
    lines = [f"generation {generation}"]
    for number in range(FILES):
        time.sleep(seconds / FILES)
        data = f"{generation} {number} ".encode() * (100 + 400 * number)
        lines.append(f"file-{number} {len(data)} {zlib.crc32(data)}")
        with open(os.path.join(stage, f"file-{number}"), "wb") as file:
            file.write(data)
    with open(os.path.join(stage, MANIFEST), "w") as file:
        file.write("\n".join(lines))


def _generation(path: str) -> str:
    """What generation the directory at `path` says it is; 0 if there is none, "?" if that cannot be said."""
    try:
        with open(os.path.join(path, MANIFEST)) as file:
            return file.readline().strip().removeprefix("generation ") or "?"
    except FileNotFoundError:
        return "?" if os.path.lexists(path) else "0"


def _count(ledger: str, text: str) -> int:
    with open(ledger) as file:
        return file.read().count(text)


def _who() -> str:
    return f"{os.environ['BATCH_ID']}\t{os.environ['BATCH_TASK']}"


def _mark(ledger: str, at: str, *fields: str) -> None:
    plan, generation, key, status, found = fields
    slot = os.environ.get("BUILD_SLOT", "")
    now = f"{time.monotonic_ns()}\t{time.time_ns()}"
    line = f"{at}\t{plan}\t{generation}\t{_who()}\t{slot}\t{os.getpid()}\t{now}\t{key}\t{status}\t{found}\n"
    fd = os.open(ledger, os.O_WRONLY | os.O_APPEND)
    os.write(fd, line.encode())
    os.close(fd)


if __name__ == "__main__":
    sys.exit(main())
