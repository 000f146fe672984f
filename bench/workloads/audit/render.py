"""Shows a snapshot: `python -m bench.workloads.audit.render FILE`. It asks nobody, and imports little."""

from __future__ import annotations

import sys

from bench.workloads.audit import snapshot


def render(entries: dict[str, snapshot.Entry]) -> str:
    """A line for each tool."""
    lines = [f"{'tool':<14}{'installed':<14}{'latest':<14}"]
    for name, entry in sorted(entries.items()):
        latest = entry["latest"] or "unknown"
        note = "" if entry["source"] == "registry" or not entry["latest"] else f"({entry['source']})"
        lines.append(f"{name:<14}{entry['version'] or 'unknown':<14}{latest:<14}{note}".rstrip())
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render(snapshot.read(sys.argv[1])))
