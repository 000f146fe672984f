"""`bench.questions.estimates`: a journal is replayed without a look into the future."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from benches import said

if TYPE_CHECKING:
    from pathlib import Path


def test_what_would_have_been_said_against_what_came(tmp_path: Path) -> None:
    """Two kinds of builds that always take 10 and 100 s, in turn, one waiting for the other: ours knows."""
    lines = []

    def line(event: str, t: float, number: int, **fields: object) -> None:
        about = {"v": 1, "t": 1e6 + t, "event": event, "id": str(number), "pool": "default", "dir": "/pool"}
        kind = {"pid": 2**30, "program": "make", "cwd": f"/{number % 2}", "cap": 1, "slot": 0}
        lines.append((t, json.dumps(about | kind | fields, separators=(",", ":"))))

    at = 0.0
    for number in range(40):
        ran_s = (10.0, 100.0)[number % 2]
        if number:
            line("queued", at - 3, number)
        line("started", at, number, waited_s=3.0 * bool(number))
        line("ended", at + ran_s, number, ran_s=ran_s, status=0)
        at += ran_s
    (tmp_path / "journal.jsonl").write_text("".join(f"{text}\n" for _, text in sorted(lines)))
    text = said("bench.questions.estimates", "--state", str(tmp_path), deadline_s=60)
    assert text.startswith("40 builds, 39 of them queued\n")
    errors = [float(number) for number in re.findall(r"median error ([\d.]+)", text)]
    assert len(errors) == 3
    assert errors[0] == 0.0 < min(errors[1:])
