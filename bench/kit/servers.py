"""Servers that a question is asked of: Redis, PostgreSQL, etcd and sshd, started for it alone, and ended.

Each keeps all it has in a directory of its own, and listens there on a Unix socket where it can. The socket
is reached from every network namespace, so that whoever counts still sees a server that is cut off from its
clients.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import select
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from bench.kit.processes import threads_cpu_s
from bench.kit.shell import Missing, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, Self

READY_S = 30.0
"""How long a server may take until it answers."""
CALL_S = 10.0
"""The longest that a call of ours waits for an answer."""
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin")) if Path("/usr/lib/postgresql").exists() else []


class Server:
    """A process that serves, in the directory `directory`; it runs while the `with` block does."""

    name = ""
    user: str | None = None
    last_signal = signal.SIGKILL

    def __init__(self, directory: Path, prefix: Sequence[str] = ()) -> None:
        """`prefix` are words in front of the command, those that put it on another host, say."""
        self.directory = directory
        self.directory.mkdir(parents=True, exist_ok=True)
        self._prefix = [*prefix]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end(self.last_signal)

    def command(self) -> list[str]:
        """What to run."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Whether it can be used by now."""
        raise NotImplementedError

    @property
    def pid(self) -> int:
        """The process that serves.

        Raises:
            RuntimeError: It does not run.
        """
        if self._process is None:
            raise RuntimeError(f"{self.name} does not run")
        return self._process.pid

    def start(self, *more: str) -> None:
        """Start it, with `more` options, and wait until it answers.

        Raises:
            Missing: It does not come up.
        """
        log = self.directory / f"{self.name}.log"
        with open(log, "ab") as output:
            self._process = subprocess.Popen(
                [*self._prefix, *self.command(), *more],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                user=self.user,
                start_new_session=True,  # what it starts ends with it
            )
        self._wait_until(self.answers, log)

    def _wait_until(self, condition: Callable[[], bool], log: Path) -> None:
        deadline = time.monotonic() + READY_S
        while not condition():
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["no output"]
                self.kill()
                raise Missing(f"{self.name} does not come up: {last[0]}")
            time.sleep(0.005)

    def cpu_s(self) -> float:
        """CPU seconds that it has used, and its processes."""
        pids = [self.pid, *(child.pid for child in psutil.Process(self.pid).children(recursive=True))]
        return sum(threads_cpu_s(pid) for pid in pids)

    def term(self) -> None:
        """Ask it to end, and wait."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it and what it has started, if it runs."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            process.wait()

    def stop(self) -> None:
        """Stop it, as a suspended machine is stopped."""
        os.killpg(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let a stopped one go on."""
        os.killpg(self.pid, signal.SIGCONT)


class Redis(Server):
    """A redis-server, or a valkey-server that is called so; without persistence unless `options` say more."""

    name = "redis-server"

    def __init__(
        self, directory: Path, prefix: Sequence[str] = (), *, port: int = 0, options: Sequence[str] = ()
    ) -> None:
        """With a `port` it also listens there: on all addresses of another host, else on loopback."""
        super().__init__(directory, prefix)
        self.socket = directory / "redis.sock"
        self.options = [*options]
        self.port = port

    def command(self) -> list[str]:
        """What to run."""
        program = _program(self.name, "redis-server")
        words = [program, "--port", str(self.port), "--unixsocket", str(self.socket), "--dir", "."]
        words += ["--protected-mode", "no"] if self._prefix else ["--bind", "127.0.0.1"]
        return [*words, "--save", "", "--daemonize", "no", "--loglevel", "notice", *self.options]

    def answers(self) -> bool:
        """Whether it can be used by now; while it loads its file it says so."""
        with contextlib.suppress(OSError, RuntimeError):
            return bool(self.call("PING") == b"PONG")
        return False

    @property
    def url(self) -> str:
        """The socket, as redis-py and ourselves name it."""
        return f"unix://{self.socket}"

    def call(self, *words: str | bytes | int) -> Any:
        """What it answers to the command `words`, on a connection of its own.

        Raises:
            OSError: It cannot be reached, or does not answer.
            RuntimeError: It answers that this is an error.
        """
        with contextlib.closing(Connection(str(self.socket))) as connection:
            return connection.call(*words)

    def info(self, section: str) -> dict[str, str]:
        """What `INFO section` says."""
        lines = self.call("INFO", section).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def cpu_s(self) -> float:
        """CPU seconds that its main thread has used, which does all that commands ask for."""
        said = self.info("cpu")
        return float(said["used_cpu_user_main_thread"]) + float(said["used_cpu_sys_main_thread"])

    def calls(self) -> dict[str, int]:
        """How often each command was called, by scripts, too."""
        found = self.info("commandstats")
        return {
            name.removeprefix("cmdstat_"): int(value.partition(",")[0].partition("=")[2])
            for name, value in found.items()
        }


class Connection:
    """A connection to a Redis for those that count or do harm: it shares no code with what is measured."""

    def __init__(self, path: str) -> None:
        import hiredis  # noqa: PLC0415 - many questions need no server

        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(CALL_S)
        self._reader = hiredis.Reader()
        try:
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise

    def call(self, *words: str | bytes | int) -> Any:
        """What the server answers to the command `words`.

        Raises:
            OSError: It does not answer.
            RuntimeError: It answers that this is an error.
        """
        import hiredis  # noqa: PLC0415 - see above

        values = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        parts = [b"*%d" % len(values)] + [b"$%d\r\n%s" % (len(value), value) for value in values]
        self._socket.sendall(b"\r\n".join(parts) + b"\r\n")
        while (answer := self._reader.gets()) is False:
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionError("the server has closed the connection")
            self._reader.feed(data)
        if isinstance(answer, hiredis.ReplyError):
            raise RuntimeError(str(answer))  # noqa: TRY004 - no mistake of ours
        return answer

    def messages(self, seconds: float) -> Iterator[list[bytes]]:
        """What channels say that were subscribed to, until nothing has come for so many seconds."""
        while True:
            while (message := self._reader.gets()) is not False:
                yield message
            if not select.select([self._socket], [], [], seconds)[0]:
                return
            self._reader.feed(self._socket.recv(65536))

    def close(self) -> None:
        """Close it."""
        self._socket.close()


class Postgres(Server):
    """A PostgreSQL of its own. It refuses to run as root: then its user is `postgres`."""

    name = "postgres"
    last_signal = signal.SIGQUIT  # "immediate shutdown"; a killed one leaves shared memory behind

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        if os.geteuid() == 0:
            self.user = "postgres"
            try:
                owner = pwd.getpwnam(self.user)
            except KeyError as error:
                raise Missing("there is no user postgres, and PostgreSQL does not run as root") from error
            os.chown(directory, owner.pw_uid, owner.pw_gid)
        bin_of = POSTGRES[-1] if POSTGRES else None
        self._program = _program("postgres", "postgresql", bin_of)
        self._data = directory / "data"
        if not self._data.exists():
            initdb = _program("initdb", "postgresql", bin_of)
            words = [initdb, "-D", str(self._data), "-U", "bench", "-A", "trust", "-N", "--no-locale"]
            become = ["setpriv", f"--reuid={self.user}", "--regid=postgres", "--clear-groups"]
            run(*(become if self.user else []), *words, cwd=directory)

    def command(self) -> list[str]:
        """What to run; `max_connections` is more than the usual 100, for a client is one."""
        listen = ["-c", "listen_addresses=", "-k", str(self.directory)]
        return [self._program, "-D", str(self._data), *listen, "-c", "max_connections=300"]

    def answers(self) -> bool:
        """Whether it can be used by now."""
        import psycopg  # noqa: PLC0415 - many questions need no server

        with contextlib.suppress(psycopg.Error):
            psycopg.connect(self.address).close()
            return True
        return False

    @property
    def address(self) -> str:
        """What libpq connects to."""
        return f"host={self.directory} user=bench dbname=postgres"


class Etcd(Server):
    """One member of etcd, which listens on free ports of loopback."""

    name = "etcd"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._client, self._peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        self.ctl = [_program("etcdctl", "etcd-client"), "--endpoints", self._client]

    def command(self) -> list[str]:
        """What to run."""
        words = [_program("etcd", "etcd-server"), "--data-dir", "etcd", "--listen-client-urls", self._client]
        words += ["--advertise-client-urls", self._client, "--listen-peer-urls", self._peer]
        words += ["--initial-advertise-peer-urls", self._peer, "--initial-cluster", f"default={self._peer}"]
        return [*words, "--logger", "zap", "--log-level", "error"]

    def answers(self) -> bool:
        """Whether it can be used by now."""
        try:
            run(*self.ctl, "endpoint", "health", env=os.environ | {"ETCDCTL_API": "3"})
        except Missing:
            return False
        return True


class Sshd(Server):
    """An sshd with keys of its own, which lets only the user in who runs it, and gives them `environ`."""

    name = "sshd"
    HOST = "H"
    """What the `ssh` of ours calls it."""

    def __init__(self, directory: Path, environ: dict[str, str], prefix: Sequence[str] = ()) -> None:
        super().__init__(directory, prefix)
        self._port = free_port()
        for key in ("host", "user"):
            if not (directory / key).exists():
                run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / key))
        self.may()
        (directory / "sshd_config").write_text(
            f"Port {self._port}\nListenAddress 127.0.0.1\nPidFile none\nUsePAM no\nStrictModes no\n"
            f"HostKey {directory}/host\nAuthorizedKeysFile {directory}/authorized_keys\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n"
            f"SetEnv {' '.join(f'{name}={value}' for name, value in environ.items())}\n"
        )
        (directory / "ssh_config").write_text(
            f"Host {self.HOST}\n HostName 127.0.0.1\n Port {self._port}\n IdentityFile {directory}/user\n"
            f" IdentitiesOnly yes\n UserKnownHostsFile {directory}/known_hosts\n"
            " StrictHostKeyChecking accept-new\n"
        )

    def may(self, options: str = "") -> None:
        """Let whoever has the user's key in, restricted by `options` of authorized_keys(5)."""
        key = (self.directory / "user.pub").read_text()
        (self.directory / "authorized_keys").write_text(f"{options} {key}".lstrip())

    def command(self) -> list[str]:
        """What to run: sshd wants to be called by its whole path."""
        return [_program("sshd", "openssh-server"), "-D", "-e", "-f", str(self.directory / "sshd_config")]

    def answers(self) -> bool:
        """Whether it can be used by now."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), CALL_S):
            return True
        return False

    def client(self, directory: Path) -> Path:
        """Make an `ssh` in `directory` that knows this host, as the client's own config would."""
        directory.mkdir(parents=True, exist_ok=True)
        program = directory / "ssh"
        ssh = _program("ssh", "openssh-client")
        program.write_text(f'#!/bin/sh\nexec {ssh} -F {self.directory}/ssh_config "$@"\n')
        program.chmod(0o755)
        return program


def _program(name: str, package: str, directory: Path | None = None) -> str:
    """The path of the program `name`.

    Raises:
        Missing: It is not installed.
    """
    path = f"{os.environ.get('PATH', '')}:/usr/sbin" if directory is None else str(directory)
    found = shutil.which(name, path=path)
    if found is None:
        raise Missing(f"`apt-get install {package}` provides {name}")
    return found


def free_port() -> int:
    """A port of loopback that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
