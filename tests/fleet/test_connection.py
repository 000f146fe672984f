"""The connection: it waits for nothing without a deadline, and says in one sentence what is wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import anyio
import pytest
from builds import DEADLINE_S, wait_until
from servers import Actor, Place, password_file

from buildslots import aio
from buildslots.errors import PoolUnreachableError
from buildslots.fleet.connection import Connection, run
from buildslots.fleet.script import Script

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from servers import Server

    from buildslots.backend import Steps

SHORT_S = 0.3
"""How long a call waits here for what never comes."""
HELLO = b"%2\r\n$7\r\nversion\r\n$5\r\n7.0.0\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n"
"""As what is greeted says who it is."""


@pytest.fixture
def actors() -> Iterator[Callable[[bytes | None], Actor]]:
    """Starts what is no good server."""
    started: list[Actor] = []

    def start(answer: bytes | None) -> Actor:
        started.append(Actor(answer))
        return started[-1]

    yield start
    for actor in started:
        actor.close()


def refusal(place: Place, timeout_s: float = 10.0) -> str:
    """With what sentence a call there fails, at once or after that time."""
    connection = Connection(place, timeout_s)
    with pytest.raises(PoolUnreachableError) as caught:
        connection.call(("PING",))
    assert not connection.is_open
    assert str(place) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_one_connection_for_who_holds_and_who_waits(server: Server) -> None:
    """What wakes the second comes in the middle of the answer to the first."""
    connection = server.connection()
    script = Script(connection, "p")
    run(script.create("test", 1))
    run(script.join("a1.1"))
    run(script.join("b1.1"))
    assert run(script.drop("a1.1")).used == 1
    wait_until(lambda: connection.hear() or connection.messages, "a message")
    assert connection.messages == [(script.channel("b1.1"), "go")]
    assert run(script.join("b1.1")).numbers == (0,)


def test_a_message_that_comes_with_an_answer_is_heard(server: Server) -> None:
    """Though nothing else comes behind it: what one waits for may be in one read with the answer."""
    connection = server.connection()
    connection.call(("PING",), listen=("c",))
    call = connection.call_steps(("PING",))
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    ear, _ = next(call)  # it is sent, and nobody is there to answer
    server.process.send_signal(signal.SIGCONT)
    assert ear is not None
    assert ear.listen(DEADLINE_S)
    assert server.do("PUBLISH", "c", "go") == 1
    with pytest.raises(StopIteration):  # the answer is read together with the message
        call.send(True)
    assert connection.hear()
    assert connection.messages == [("c", "go")]


def test_a_connection_that_is_cut_is_opened_again_and_listens(server: Server) -> None:
    """Also where the server has forgotten the script."""
    connection = server.connection()
    script = Script(connection, "p")
    run(script.create("test", 1))
    other = server.script()
    run(other.join("a1.1"))
    seq = run(script.join("b1.1")).seq
    for opened in (2, 3):
        server.do("SCRIPT", "FLUSH")
        server.do("CLIENT", "KILL", "TYPE", "pubsub")
        assert run(script.join("b1.1", seq=seq)).seq == seq
        assert connection.opened == opened
    run(other.drop("a1.1"))
    wait_until(connection.hear, "a message")
    assert connection.messages[-1][1] == "go"
    connection.unlisten(script.channel("b1.1"))
    run(script.drop("b1.1"))
    assert script.channel("b1.1") not in server.do("PUBSUB", "CHANNELS")


def test_a_server_that_has_gone_and_comes_back(server: Server) -> None:
    """Whoever listens hears the end; whoever calls is refused; then all is as before."""
    connection = server.connection()
    connection.call(("PING",), listen=("c",))
    server.stop(signal.SIGKILL)
    with pytest.raises(PoolUnreachableError, match="has closed the connection"):
        wait_until(connection.hear, "the end of the connection")
    with pytest.raises(PoolUnreachableError, match=r"refused|No such file"):
        connection.call(("PING",))
    server.start()
    assert connection.call(("PUBSUB", "CHANNELS")) == [["c"]]


def test_a_forked_child_has_a_connection_of_its_own(server: Server) -> None:
    """What it sends would be in the middle of its parent's calls."""
    connection = server.connection()
    (mine,) = connection.call(("CLIENT", "ID"))
    pid = os.fork()
    if not pid:
        os._exit(connection.call(("CLIENT", "ID")) == [mine])
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert connection.call(("CLIENT", "ID")) == [mine]


def test_a_name_is_looked_up(servers: Callable[..., Server]) -> None:
    """In a thread; one that there is not is said to be none."""
    place = servers(tcp=True).place(tcp=True)
    place.host = "localhost"
    connection = Connection(place)
    try:
        assert connection.call(("PING",)) == ["PONG"]
    finally:
        connection.close()
    place.host = "nowhere.invalid"
    assert any(
        each in refusal(place, SHORT_S) for each in ("ame ", "no answer within")
    )  # "Name or service …"


NO_GOOD = {
    "it ends at once": (b"", "has closed the connection"),
    "a web server": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "cannot be read"),
    "it greets as nobody does": (b"+OK\r\n", "no server of Redis"),
    "its greeting is a number": (b":3\r\n", "no server of Redis"),
    "Redis 5": (b"-ERR unknown command `HELLO`, with args\r\n", "7.0 is the least"),
    "Redis 6": (HELLO.replace(b"7.0.0", b"6.2.7"), "version is 6.2.7"),
    "a version that is none": (HELLO.replace(b"7.0.0", b"\x1b[31m"), r"version is \?\[31m"),
    "it loads": (b"-LOADING Redis is loading the dataset in memory\r\n", "LOADING"),
    "too many clients": (b"-ERR max number of clients reached\r\n", "max number of clients"),
    "an array without end": (HELLO + b"*4294967295\r\n", ""),
    "arrays without bottom": (HELLO + b"*1\r\n" * 100_000, "cannot be read"),
    "a text without end": (HELLO + b"$500000000\r\n" + b"x" * (17 * 2**20), "cannot be read"),
    "half an answer": (HELLO + b"$10\r\nabc", f"no answer within {SHORT_S}"),
    "it says nothing": (b"%", f"no answer within {SHORT_S}"),
    "nobody accepts": (None, f"no answer within {SHORT_S}"),
}


@pytest.mark.parametrize("name", NO_GOOD)
def test_what_is_no_good_server_is_refused(name: str, actors: Callable[[bytes | None], Actor]) -> None:
    """In one sentence, without anything that could steer a terminal, and within the time of a call."""
    answer, sentence = NO_GOOD[name]
    text = refusal(actors(answer).place(), SHORT_S if "no answer" in sentence or not sentence else 10.0)
    assert sentence.replace("\\", "") in text
    assert text.isprintable()


def test_a_pool_that_answers_nonsense(actors: Callable[[bytes | None], Actor]) -> None:
    """What is not what a pool answers is refused, too."""
    right = (
        b"*17\r\n$4\r\nheld\r\n$1\r\n0\r\n"
        + b":1\r\n" * 9
        + b"$0\r\n\r\n$0\r\n\r\n:0\r\n:0\r\n:0\r\n$11\r\n1 1 1 1 1 1\r\n"
    )
    for wrong in (
        b"+OK\r\n",
        b"*0\r\n",
        right.replace(b"held", b"mine"),
        right.replace(b"\r\n0", b"\r\nx"),
        right.replace(b"1 1", b"x 1"),
    ):
        connection = Connection(actors(HELLO + wrong).place())
        with pytest.raises(PoolUnreachableError, match="not what a pool answers"):
            run(Script(connection, "p").join("a1.1", mode="try"))
        assert not connection.is_open
    connection = Connection(actors(HELLO + right).place())
    assert run(Script(connection, "p").join("a1.1", mode="try")).numbers == (0,)
    connection.close()


async def in_task(steps: Steps[object]) -> object:
    """What `steps` return, for a task."""
    try:
        ears, seconds = next(steps)
        while True:
            ears, seconds = steps.send(await aio._listen(ears, seconds, None))
    except StopIteration as end:
        return end.value
    finally:
        steps.close()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_task_is_never_blocked(backend: str) -> None:
    """Looking up a name, connecting, sending and receiving: the other end is a task of the same loop."""
    words = ("ECHO", "x" * 3_000_000)  # more than a socket takes at once

    async def answer(client: anyio.abc.SocketStream) -> None:
        async with client:
            left = len(words[1])
            while left > 0:
                left -= len(await client.receive())
            await client.send(HELLO + b"+OK\r\n")

    async def main() -> None:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            place = Place("redis://localhost/0/p")
            place.scheme, place.host, place.path, place.db = "redis", "localhost", "", 0
            place.port = listener.extra(anyio.abc.SocketAttribute.local_port)
            place.user = place.password_file = None
            connection = Connection(place, DEADLINE_S)
            async with anyio.create_task_group() as group:
                group.start_soon(listener.serve, answer)
                assert await in_task(connection.call_steps(words, new_poll=aio._poll())) == ["OK"]
                connection.close()
                group.cancel_scope.cancel()

    anyio.run(main, backend=backend)


def test_a_call_that_is_given_up_takes_its_connection_with_it(server: Server) -> None:
    """The answer that is yet to come would be that of the next call."""
    connection = server.connection()
    connection.call(("PING",))
    server.process.send_signal(signal.SIGSTOP)
    steps = connection.call_steps(("PING",))
    next(steps)
    steps.close()
    assert not connection.is_open
    server.process.send_signal(signal.SIGCONT)
    assert connection.call(("ECHO", "mine")) == ["mine"]


# Logging in.


def test_who_may_not_log_in_is_told_so_without_the_password(
    servers: Callable[..., Server], tmp_path: Path
) -> None:
    """Whoever gives none, a wrong one, or may not do what a pool needs."""
    server = servers("user default off", "user builds on >s3cret ~bs:* -@all +hello +auth")
    assert "wants a password of user 'default'" in refusal(server.place())
    path = password_file(tmp_path, "s3cret")
    place = server.place(user="builds", password_file=path)
    assert "'builds' may not do there what a pool needs" in str(denied(place))
    assert "does not know user 'nobody' with the password in" in refusal(
        server.place(user="nobody", password_file=path)
    )
    os.chmod(path, 0o644)
    assert path in refusal(place)


def denied(place: Place) -> PoolUnreachableError:
    connection = Connection(place)
    with pytest.raises(PoolUnreachableError) as caught:
        run(Script(connection, "p").join("a1.1"))
    return caught.value


def test_a_user_without_a_password_and_a_database(servers: Callable[..., Server]) -> None:
    """It says who it is; and the pools of two databases are two."""
    place = servers("user builds on nopass ~* &* +@all").place(user="builds")
    place.db = 3
    connection = Connection(place)
    try:
        assert connection.call(("ACL", "WHOAMI"), ("CLIENT", "INFO"))[0] == "builds"
        assert " db=3 " in connection.call(("CLIENT", "INFO"))[0]
    finally:
        connection.close()


def test_a_cluster_and_a_sentinel_are_refused(servers: Callable[..., Server]) -> None:
    """In a cluster the wake-ups would be lost."""
    assert "node of a cluster" in refusal(servers("cluster-enabled yes").place())
    assert "a Sentinel" in refusal(servers("sentinel myid " + "a" * 40, is_sentinel=True).place())


def test_a_replica_can_be_looked_at_and_no_more(servers: Callable[..., Server]) -> None:
    """Whoever wants a slot of it is told that it cannot be reached."""
    master = servers("repl-diskless-sync-delay 0", tcp=True)
    run(master.script().create("test", 3))
    replica = servers(f"replicaof 127.0.0.1 {master.port}")
    script = replica.script()
    wait_until(lambda: "bs:{p}:cfg" in replica.do("KEYS", "*"), "the replica has the pool")
    assert run(script.status()).rules.cap == 3
    with pytest.raises(PoolUnreachableError, match="READONLY"):
        run(script.join("a1.1"))


# TLS.


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and what it says of 127.0.0.1."""
    path = tmp_path_factory.mktemp("tls")
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    new += ["-days", "2", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*new, "-keyout", path / "key", "-out", path / "crt"], check=True, capture_output=True)
    return path


def test_tls_is_verified(
    servers: Callable[..., Server], certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the authorities of the system, and by name."""
    lines = (f"tls-cert-file {certificates}/crt", f"tls-key-file {certificates}/key", "tls-auth-clients no")
    server = servers(*lines, tls=True)
    place = server.place(tcp=True)
    place.scheme = "rediss"
    assert "certificate verify failed" in refusal(place)
    monkeypatch.setenv("SSL_CERT_FILE", f"{certificates}/crt")
    connection = Connection(place)
    script = Script(connection, "p")
    run(script.create("test", 1))
    assert connection.call(("ECHO", "x" * 1_000_000), listen=("c",)) == ["x" * 1_000_000]
    server.do("PUBLISH", "c", "hello")
    wait_until(connection.hear, "a message")
    connection.close()
    place.host = "localhost"
    assert "certificate verify failed" in refusal(place)
    place.scheme = "redis"
    refusal(place)


def test_a_server_without_tls_is_refused(
    actors: Callable[[bytes | None], Actor], servers: Callable[..., Server]
) -> None:
    """By whoever was told to speak it."""
    refusal(actors(b"-ERR what?\r\n").place("rediss"))
    place = servers(tcp=True).place(tcp=True)
    place.scheme = "rediss"
    refusal(place, SHORT_S)


def test_what_is_loaded() -> None:
    """Neither socket nor ssl nor hashlib: a build with a slot of a fleet has no time for them."""
    program = "import sys, buildslots.fleet.script; print(*sorted(sys.modules))"
    run_ = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    heavy = {
        "socket",
        "selectors",
        "ssl",
        "hashlib",
        "enum",
        "re",
        "typing",
        "asyncio",
        "dataclasses",
        "collections",
    }
    assert not heavy & set(run_.stdout.split())
