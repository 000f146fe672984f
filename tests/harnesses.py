"""Fake coding agents: each starts a shell with a command line, and ends it, as that agent's tool does.

    python harnesses.py TOOL LINE [SILENT_S]

A process of its own, because an agent is the owner of its builds, and may be killed itself. It reads a word a
line from stdin, and answers each with a line of JSON:

    poll         what the command has said since the last poll, and the status of the shell or null
    background   what comes from now on is kept in the file `task`, and the command goes on; as poll
    limit        end the command as the tool does at its limit or at the end of the session; as poll
    term, kill   end the shell alone; as poll
    hang-up      close the terminal; as poll

The habits are those of the agents' documentation and sources, and of reports about them (November 2026).
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import selectors
import signal
import struct
import subprocess
import sys
import termios
import time

import psutil

KILL_AFTER_S = 0.2
"""How long Gemini waits between SIGTERM and SIGKILL."""


class Tool:
    """A tool that has started a command line. All of them make a session of its own for it."""

    shell = ("bash", "-c")
    has_terminal = False
    marks: tuple[str, ...] = ()
    """By what the command can tell which agent it is."""

    def __init__(self, line: str) -> None:
        environ = os.environ | dict(mark.split("=") for mark in self.marks)
        argv = [*self.shell, self.wrapped(line)]
        if self.has_terminal:
            self.fd, other = pty.openpty()
            fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
            environ["TERM"] = "xterm-256color"
            self.process = subprocess.Popen(
                argv,
                env=environ,
                stdin=other,
                stdout=other,
                stderr=other,
                start_new_session=True,
                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no threads
            )
            os.close(other)
        else:
            self.process = subprocess.Popen(
                argv,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            assert self.process.stdout is not None
            self.fd = self.process.stdout.fileno()

    def wrapped(self, line: str) -> str:
        """The line as the shell gets it."""
        return line

    def limit(self) -> None:
        """End the command as the tool does."""
        raise NotImplementedError

    def send_to_group(self, signum: int) -> None:
        """Send a signal to the process group of the shell."""
        try:
            os.killpg(self.process.pid, signum)
        except ProcessLookupError:
            pass

    def send_to_tree(self, signum: int) -> None:
        """Send a signal to the shell and all that are below it now, by their parents."""
        try:
            shell = psutil.Process(self.process.pid)
            tree = [shell, *shell.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for process in tree:
            try:
                process.send_signal(signum)
            except psutil.NoSuchProcess:
                pass


class Claude(Tool):
    """A pipe; more words around the command; its number is in the environment."""

    def __init__(self, line: str) -> None:
        self.marks = ("CLAUDECODE=1", f"CLAUDE_PID={os.getpid()}")
        super().__init__(line)

    def wrapped(self, line: str) -> str:
        quoted = line.replace("'", "'\\''")
        return f"shopt -u extglob; eval '{quoted}' </dev/null && pwd -P >|/dev/null"

    def limit(self) -> None:
        self.process.terminate()


class Codex(Tool):
    """A pipe; it is polled until the end of the session, and then its process group is killed."""

    marks = ("CODEX_THREAD_ID=1",)

    def limit(self) -> None:
        self.send_to_group(signal.SIGKILL)


class CodexTerminal(Codex):
    """The same on a terminal."""

    has_terminal = True


class Gemini(Tool):
    """A terminal; the group and the tree are ended, and killed a little later."""

    has_terminal = True
    marks = ("GEMINI_CLI=1",)

    def limit(self) -> None:
        for signum in (signal.SIGTERM, signal.SIGKILL):
            self.send_to_tree(signum)
            self.send_to_group(signum)
            if signum == signal.SIGTERM:
                time.sleep(KILL_AFTER_S)


class Opencode(Tool):
    """A pipe; the tree below the shell is killed."""

    shell = ("sh", "-c")
    marks = ("BUILD_SLOTS_AGENT=1",)

    def limit(self) -> None:
        self.send_to_tree(signal.SIGKILL)


TOOLS = {"claude": Claude, "codex": Codex, "codex-pty": CodexTerminal, "gemini": Gemini, "opencode": Opencode}


class Session:
    """What an agent does while its tool runs one command."""

    def __init__(self, tool: Tool, silent_s: float | None) -> None:
        """`silent_s`: the tool's limit, in seconds without any output; None if it has none."""
        self.tool = tool
        self.said = b""
        self.task: int | None = None
        self.silent_s = silent_s
        self.heard = time.monotonic()
        self.ears = selectors.DefaultSelector()
        self.ears.register(tool.fd, selectors.EVENT_READ)
        self.ears.register(0, selectors.EVENT_READ)

    def serve(self) -> None:
        """Do what is asked for, until the end of stdin."""
        while True:
            silent_s = time.monotonic() - self.heard
            left_s = None if self.silent_s is None else max(0.0, self.silent_s - silent_s)
            ready = {key.fd for key, _ in self.ears.select(left_s)}
            if self.tool.fd in ready:
                self.hear()
            if 0 in ready:
                words = os.read(0, 4096).decode().split()
                if not words:
                    return
                for word in words:
                    self.answer(word)
            if not ready and self.silent_s is not None:
                self.silent_s = None
                self.tool.limit()

    def hear(self) -> None:
        """Take what the command says."""
        try:
            text = os.read(self.tool.fd, 65536)
        except OSError:
            text = b""  # EIO: nobody has the terminal any more
        if not text:
            self.ears.unregister(self.tool.fd)
        self.heard = time.monotonic()
        if self.task is None:
            self.said += text
        else:
            os.write(self.task, text)

    def answer(self, word: str) -> None:
        """Do what `word` asks for, and say so."""
        tool = self.tool
        if word == "background":
            self.task = os.open("task", os.O_WRONLY | os.O_CREAT, 0o600)
        elif word == "limit":
            tool.limit()
        elif word in ("term", "kill"):
            tool.process.send_signal({"term": signal.SIGTERM, "kill": signal.SIGKILL}[word])
        elif word == "hang-up":
            self.ears.unregister(tool.fd)
            os.close(tool.fd)
        status = tool.process.poll() if word in ("poll", "background") else tool.process.wait()
        told = {"said": self.said.decode(errors="replace"), "status": status}
        self.said = b""
        os.write(1, json.dumps(told).encode() + b"\n")


def main() -> None:
    """Start the command line, say the number of the shell, and do what is asked for."""
    name, line, *silent_s = sys.argv[1:]
    tool = TOOLS[name](line)
    os.write(1, b"%d\n" % tool.process.pid)
    Session(tool, float(silent_s[0]) if silent_s else None).serve()


if __name__ == "__main__":
    main()
