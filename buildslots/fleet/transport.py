"""Bytes to a server and back, without ever blocking: a TCP connection, TLS over one, or a Unix socket.

Whatever takes time is a generator of steps (`backend.Steps`): the caller sleeps, be it a thread or a task of
an event loop. Every one has a deadline. All failures are OSErrors; TimeoutError if it was the deadline.

`socket` costs 25 ms to import, `_socket` below it 1 ms: so that is used, as `ssl` is only for rediss://.
"""

from __future__ import annotations

import _socket
import errno
import os
import select
import time
from _weakref import ref

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from typing import Any, Protocol, TypeAlias

    from buildslots.backend import Steps

    NewPoll: TypeAlias = "Callable[[], Any]"

    class Server(Protocol):
        """Where a server is, and how to log in there: `settings.address.Address` is one. Its str names it."""

        scheme: str
        user: str | None
        host: str
        port: int
        path: str
        db: int
        password_file: str | None


IN, OUT = getattr(select, "POLLIN", 1), getattr(select, "POLLOUT", 4)
READ = 65536
LOOK_S = 0.05
"""How often to look at a socket that is to be written to, though nothing was heard: a kqueue(2) of an event
loop is only told of what is to be read."""
UNHEARD_S = 0.02
"""The same where there is no poll(2): on Windows, and where eventlet has taken it out of `select`."""
FULL_S = 0.01
"""How long to wait when a Unix socket has too many connections that it has not accepted yet (unix(7))."""
UNIX = getattr(_socket, "AF_UNIX", None)
NO_SIGNAL = getattr(_socket, "MSG_NOSIGNAL", 0)
CONNECTING = {errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EALREADY, errno.EINTR}


class Ear:
    """A `backend.Listener`: wakes when something can be read from a descriptor, or written to it."""

    __slots__ = ("wake",)

    def __init__(self, fd: int, events: int, new_poll: NewPoll | None = None) -> None:
        self.wake = (new_poll or select.poll)()
        self.wake.register(fd, events)

    def listen(self, seconds: float) -> bool:
        """Sleep until it can, or for so many seconds: whether there was anything."""
        return bool(self.wake.poll(max(0.0, seconds * 1000)))

    def close(self) -> None:
        """Give back what was opened. Idempotent."""
        if hasattr(self.wake, "close"):  # select.poll has nothing to close
            self.wake.close()


def sleep(fd: int, events: int, until: float, new_poll: NewPoll | None) -> Steps[None]:
    """Wait for `fd` once, perhaps for nothing. Raises TimeoutError: `until` has passed."""
    left_s = until - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    if new_poll is None and not hasattr(select, "poll"):
        yield None, min(left_s, UNHEARD_S)
        return
    ear = Ear(fd, events, new_poll)
    try:
        yield ear, left_s if events == IN else min(left_s, LOOK_S)
    finally:
        ear.close()


class Transport:
    """An open connection. Not for two at a time; closed when it is forgotten, in a forked child at once."""

    __slots__ = ("__weakref__", "_plain", "_socket", "_tls")

    def __init__(self, sock: _socket.socket) -> None:
        _open[id(self)] = ref(self)
        self._socket = sock
        self._tls: ssl.SSLObject | None = None
        self._plain: tuple[ssl.MemoryBIO, ssl.MemoryBIO] | None = None  # what came, and what is to be sent

    def fileno(self) -> int:
        """What to wait with until something can be read."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close it at once. Idempotent, raises nothing."""
        _open.pop(id(self), None)
        try:
            self._socket.close()
        except OSError:
            pass  # closed all the same, see close(2)

    def send_steps(self, data: bytes, until: float, new_poll: NewPoll | None) -> Steps[None]:
        """Send all of `data`."""
        if self._tls is not None and self._plain is not None:
            self._tls.write(data)
            data = self._plain[1].read()
        yield from self._send(data, until, new_poll)

    def _send(self, data: bytes, until: float, new_poll: NewPoll | None) -> Steps[None]:
        left = memoryview(data)
        while left:
            try:
                left = left[self._socket.send(left, NO_SIGNAL) :]
            except BlockingIOError:
                yield from sleep(self.fileno(), OUT, until, new_poll)

    def read(self) -> bytes | None:
        """What has arrived; None if nothing has. Raises ConnectionResetError at the end of the stream."""
        try:
            data = self._socket.recv(READ)
        except BlockingIOError:
            return None
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "the server has closed the connection")
        if self._tls is None or self._plain is None:
            return data
        self._plain[0].write(data)
        return self._decrypted(self._tls) or None

    def _decrypted(self, tls: ssl.SSLObject) -> bytes:
        from ssl import SSLWantReadError  # noqa: PLC0415 - loaded already, as there is an object of it

        data = b""
        try:
            while more := tls.read(READ):
                data += more
        except SSLWantReadError:
            pass
        return data

    def encrypt_steps(self, host: str, until: float, new_poll: NewPoll | None) -> Steps[None]:
        """Speak TLS from now on, with a server that proves to be `host`. Raises ssl.SSLError, an OSError."""
        import ssl  # noqa: PLC0415 - 30 ms, for rediss:// only

        plain = ssl.MemoryBIO(), ssl.MemoryBIO()
        # Verified by the authorities of this system, or those in the file that SSL_CERT_FILE names.
        tls = ssl.create_default_context().wrap_bio(*plain, server_hostname=host)
        done = False
        while not done:
            if time.monotonic() >= until:  # there may always be something to read
                raise TimeoutError
            try:
                tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                pass
            yield from self._send(plain[1].read(), until, new_poll)
            while not done and (data := self.read()) is None:
                yield from sleep(self.fileno(), IN, until, new_poll)
            if not done:
                plain[0].write(data or b"")
        self._tls, self._plain = tls, plain


_open: dict[int, ref[Transport]] = {}


def _close_in_child() -> None:
    """Close what a forked child has of its parent's connections, without a word to the servers.

    At once, while their descriptors have their numbers: a daemon closes all that it has, and what it opens
    then gets the same numbers.
    """
    for found in list(_open.values()):
        transport = found()
        if transport is not None:
            transport.close()
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


def connect_steps(server: Server, timeout_s: float, new_poll: NewPoll | None) -> Steps[Transport]:
    """Connect to `server`, within so many seconds for the name, the connection, and TLS each."""
    until = time.monotonic() + timeout_s
    if server.scheme == "unix":
        if UNIX is None:
            raise OSError(errno.EAFNOSUPPORT, "this system has no Unix sockets")
        return (yield from _connected(UNIX, server.path, until, new_poll))
    found = yield from _resolved(server.host, server.port, until, new_poll)
    until = time.monotonic() + timeout_s
    transport = yield from _first_that_answers(found, until, new_poll)
    try:
        if server.scheme == "rediss":
            yield from transport.encrypt_steps(server.host, time.monotonic() + timeout_s, new_poll)
    except BaseException:
        transport.close()
        raise
    return transport


def _first_that_answers(found: list[Any], until: float, new_poll: NewPoll | None) -> Steps[Transport]:
    """Connect to one of the addresses `found`, each of which has its part of the time."""
    problem: OSError | None = None
    for index, (family, _, _, _, place) in enumerate(found):
        now = time.monotonic()
        part_s = (until - now) / (len(found) - index)
        try:
            return (yield from _connected(family, place, now + part_s, new_poll))
        except OSError as error:
            problem = error
    raise problem or OSError(errno.EHOSTUNREACH, "the server's name has no address")


def _connected(family: int, place: Any, until: float, new_poll: NewPoll | None) -> Steps[Transport]:
    sock = _socket.socket(family, _socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        yield from _connect(sock, place, until, new_poll)
        if family in (_socket.AF_INET, _socket.AF_INET6):
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return Transport(sock)


def _connect(sock: _socket.socket, place: Any, until: float, new_poll: NewPoll | None) -> Steps[None]:
    code = sock.connect_ex(place)
    while code == errno.EAGAIN and sock.family == UNIX:
        if time.monotonic() >= until:
            raise TimeoutError
        yield None, FULL_S
        code = sock.connect_ex(place)
    while code in CONNECTING:
        yield from sleep(sock.fileno(), OUT, until, new_poll)
        code = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
        if not code and not _is_connected(sock):
            code = errno.EINPROGRESS  # woken for nothing
    if code:
        raise OSError(code, os.strerror(code))


def _is_connected(sock: _socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _resolved(host: str, port: int, until: float, new_poll: NewPoll | None) -> Steps[list[Any]]:
    """The addresses of `host`. One that is none yet is looked up in a thread: that may take half a minute."""
    kind = _socket.SOCK_STREAM
    try:
        return _socket.getaddrinfo(host, port, 0, kind, 0, _socket.AI_NUMERICHOST)
    except _socket.gaierror:
        pass
    except UnicodeError as error:  # of the codec "idna"
        raise OSError(errno.EINVAL, f"no name of a host: {error}", host) from error
    from _thread import start_new_thread  # noqa: PLC0415

    found: list[Any] = []
    mine, its = os.pipe()

    def look_up() -> None:
        try:
            found.append(_socket.getaddrinfo(host, port, 0, kind))
        except Exception as error:  # noqa: BLE001 - raised again by whoever asked
            found.append(error)
        finally:
            os.close(its)  # which wakes the other one, if that still waits

    try:
        start_new_thread(look_up, ())
    except RuntimeError as error:
        os.close(its)
        os.close(mine)
        raise OSError(errno.EAGAIN, f"no thread to look up the server's name in: {error}") from error
    try:
        while not found:
            yield from sleep(mine, IN, until, new_poll)
    finally:
        os.close(mine)
    if isinstance(found[0], Exception):
        raise found[0]
    addresses: list[Any] = found[0]
    return addresses
