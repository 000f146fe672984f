"""What people see and say: where the token comes from, rows on a terminal, lines in CI."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from typing import TYPE_CHECKING

from bench.kit.shell import CHECKOUT
from bench.workloads.install.server import FILES, Files, components
from bench.workloads.install.watched import command

if TYPE_CHECKING:
    from pathlib import Path

    from bench.workloads.checklist import Checklist

COLUMNS, LINES = 90, 24
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
BACK = re.compile(r"(?:\r?\x1b\[2K|\x1b\[1A)+")
DEADLINE_S = 60.0


def check(say: Checklist, scratch: Path, count: int) -> None:
    """Check it, with rows for at most `count` components."""
    _tokens(say, scratch)
    _lines(say, scratch)
    _rows(say, scratch, min(count, 12))


def _gh(directory: Path, script: str | None) -> str:
    """A directory for PATH, with a gh that does that, or with none."""
    directory.mkdir()
    if script is not None:
        gh = directory / "gh"
        gh.write_text(f'#!/bin/sh\n[ "$*" = "auth token" ] || exit 2\n: > {directory}/asked\n{script}\n')
        gh.chmod(0o755)
    return str(directory)


def _tokens(say: Checklist, scratch: Path) -> None:
    """Installs with different things in the environment, all at once."""
    ways: dict[str, tuple[str, str | None, dict[str, str]]] = {
        "from GITHUB_TOKEN, and gh is not asked": ("said", "echo of-gh", {"GITHUB_TOKEN": "said"}),
        "from `gh auth token` without that": ("of-gh", "echo of-gh", {}),
        "from nowhere without gh": ("", None, {}),
        "from nowhere if gh is not logged in": ("", "echo not logged in >&2; exit 1", {}),
    }
    runs = []
    for number, (text, (token, script, env)) in enumerate(ways.items()):
        server = Files(components(1)).__enter__()
        path = _gh(scratch / f"gh-{number}", script)
        process = subprocess.Popen(
            command(server.url, scratch / f"token-{number}"),
            cwd=CHECKOUT,
            env={**os.environ, "PATH": path, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        runs.append((text, token, server, process, path))
    for text, token, server, process, path in runs:
        out, err = process.communicate(timeout=DEADLINE_S)
        server.__exit__()
        sent = {seen.headers.get("Authorization", "") for seen in server.requests(FILES)}
        is_right = process.returncode == 0 and sent == {f"Bearer {token}" if token else ""}
        if token:
            is_right = is_right and not err and token not in out
            is_right = is_right and os.path.exists(os.path.join(path, "asked")) == (token == "of-gh")
            say.check(f"the token is {text}", is_right, f"{sent.pop()!r} was sent, and nothing printed")
        else:
            says = "GITHUB_TOKEN" in err and "gh auth login" in err
            say.check(
                f"the token is {text}: none, and a warning says what to do", is_right and says, err.strip()
            )


def _lines(say: Checklist, scratch: Path) -> None:
    with Files(components(5)) as server:
        server.always["tool-04"] = server.corrupted("tool-04")
        process = subprocess.run(
            command(server.url, scratch / "lines", "-j1"),
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_S,
        )
    lines = process.stdout.splitlines()
    starts = [line for line in lines if re.fullmatch(r"start tool-\d\d(, attempt 2)?", line)]
    ends = [line for line in lines if re.fullmatch(r"ok        tool-\d\d \[\d/5\]", line)]
    say.check(
        "elsewhere than on a terminal: one line at the start and one at the end of each, and no escapes",
        len(starts) == 6 and len(ends) == 4 and "\x1b" not in process.stdout and "\r" not in process.stdout,
        f"{len(starts)} starts, {len(ends)} ends",
    )
    failed = [line for line in lines if line.startswith("failed")]
    whole = len(failed) == 1 and re.search(r"ChecksumError: .* and not [0-9a-f]{12}… \[5/5\]$", failed[0])
    say.check("  … a failure is told whole", whole, "; ".join(failed))
    last = lines[-1] if lines else ""
    text = "  … the last line says what became of it, and the status is 1"
    say.check(text, last.startswith("nothing was changed: ") and process.returncode == 1, last)


def _rows(say: Checklist, scratch: Path, count: int) -> None:
    with Files(components(count)) as server:
        ci = _in_terminal(command(server.url, scratch / "ci"), {"TERM": "xterm-256color", "CI": "true"})
        server.chunk_s = 0.05
        out = _in_terminal(command(server.url, scratch / "rows"), {"TERM": "xterm-256color"})
    frames = [re.findall(r"tool-\d\d .*?[━╸╺]+ +[\d.]+/[\d.]+ (?:kB|bytes)", text) for text in _frames(out)]
    most = max(map(len, frames))
    parts = {row for frame in frames for row in frame}
    say.check(
        "on a terminal: a row with its bytes for each that is downloaded, at most 4",
        most == 4 and len(parts) > count,
        f"{most} rows, {len(parts)} different ones drawn",
    )
    ended = re.findall(rf"ok +tool-\d\d \[\d+/{count}\]", ESCAPE.sub("", out))
    say.check(
        "  … what has ended scrolls away above them, once", len(ended) == count, f"{len(ended)} of {count}"
    )
    lines = ci.replace("\r\n", "\n").splitlines()
    is_plain = "\x1b" not in ci and len([line for line in lines if line.startswith("start ")]) == count
    say.check("  … and where CI is set, lines even there", is_plain, f"{len(lines)} lines")


def _frames(out: str) -> list[str]:
    """What was drawn each time, without escapes: a frame begins where the cursor goes back."""
    return [ESCAPE.sub("", part) for part in BACK.split(out)]


def _in_terminal(command: list[str], env: dict[str, str]) -> str:
    """All that `command` writes to a terminal."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    inherited = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
    process = subprocess.Popen(
        command, cwd=CHECKOUT, env={**inherited, **env, "GITHUB_TOKEN": "x"}, stdin=slave, stdout=slave
    )
    os.close(slave)
    data = b""
    try:
        while part := os.read(master, 65536):
            data += part
    except OSError:
        pass  # EIO: nobody has the terminal open any more
    finally:
        os.close(master)
    process.wait(timeout=DEADLINE_S)
    return data.decode(errors="replace")
