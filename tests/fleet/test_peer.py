"""Other clients than ours: one that only knows PROTOCOL.md, and users who may do what that page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
from builds import DEADLINE_S
from servers import password_file

import buildslots.fleet
from buildslots.errors import PoolUnreachableError
from buildslots.fleet.connection import Connection, run
from buildslots.fleet.script import Script

if TYPE_CHECKING:
    from servers import Server

HERE = Path(buildslots.fleet.__file__).parent
ACL = re.compile(r"^ACL SETUSER (\w+) (.*)$", re.MULTILINE)


class Peer:
    """The client of PROTOCOL.md, section 6, without deadlines and beats."""

    def __init__(self, path: str, build: str) -> None:
        self.server = redis.Redis(unix_socket_path=path, protocol=3, decode_responses=True)
        self.build = build
        text = "#!lua flags=allow-oom\n" + (HERE / "pool.lua").read_text() + (HERE / "slots.lua").read_text()
        self.script = self.server.register_script(text)
        self.known, self.seq = "", 0
        self.ears = self.server.pubsub()
        self.ears.subscribe(f"bs:{{p}}:{build}")
        assert self.ears.get_message(timeout=DEADLINE_S)["type"] == "subscribe"

    def join(self) -> list[object]:
        words = ["join", self.build, self.known, "wait", "normal", 0, self.seq, ""]
        answer = self.script(keys=["bs:{p}:"], args=words)
        self.seq, self.known = answer[6], answer[16]
        return answer

    def wait(self) -> list[object]:
        while self.join()[0] != "held":
            self.ears.get_message(ignore_subscribe_messages=True, timeout=DEADLINE_S)
        return self.join()  # to confirm, if there was no message

    def drop(self) -> None:
        self.script(keys=["bs:{p}:"], args=["drop", self.build])
        self.ears.close()
        self.server.close()


def test_a_client_of_another_make_stands_in_the_same_line(server: Server) -> None:
    """It waits for one of ours, and one of ours for it."""
    ours = server.script()
    run(ours.create("test", 1))
    run(ours.join("a1.1"))
    peer = Peer(server.path, "b1.1")
    assert peer.join()[0] == "waiting"
    run(ours.drop("a1.1"))
    assert peer.wait()[:2] == ["held", "0"]
    assert run(ours.join("c1.1")).place == 0
    peer.drop()
    assert run(ours.join("c1.1")).numbers == (0,)


def users() -> dict[str, list[str]]:
    """The users of PROTOCOL.md, and what they may do."""
    return {name: words.split() for name, words in ACL.findall((HERE / "PROTOCOL.md").read_text())}


def everything(server: Server, password: str) -> None:
    """Do all that a build, or somebody who sets rules, ever does. Raises PoolUnreachableError."""
    place = server.place(user="builds", password_file=password)
    place.db = 1
    connections = Connection(place), Connection(place)
    one, two = (Script(each, "p") for each in connections)
    try:
        known = run(one.create("test", 1)).known
        run(one.join("a1.1", known))
        run(two.join("b1.1", known, own_cap=1, priority="high", info="{}"))
        run(two.join("b1.1", known, mode="unready"))
        run(two.over("b1.1", known))
        run(one.renew("a1.1", known))
        run(one.renew("c1.1", known))
        run(one.join("d1.1", known))
        run(one.pause("test", 60))
        run(one.join("d1.1", known))
        run(one.resume("test"))
        run(one.set("test", slots=4, head_start_s=3))
        assert run(one.status()).used == 4
        assert run(one.holds("a1.1"))
        connections[0].unlisten(one.channel("d1.1"))
        for build in ("a1.1", "b1.1", "c1.1", "d1.1"):
            run(one.drop(build))
    finally:
        for each in connections:
            each.close()


def test_the_user_of_the_page_can_do_all_that_is_needed_and_no_more(server: Server, tmp_path: Path) -> None:
    """Each command in the line is needed; other keys, channels and commands are not for that user."""
    password = password_file(tmp_path, "PASSWORD")
    words = users()["builds"]
    commands = [word for word in words if word.startswith("+")]
    assert len(commands) > 10
    for without in ("", *commands):
        server.do("FLUSHALL")
        server.do("SCRIPT", "FLUSH")
        allowed = [word for word in words if word != without]
        assert server.do("ACL", "SETUSER", "builds", "reset", *allowed) == "OK"
        if without:
            with pytest.raises(PoolUnreachableError, match="may not do there what a pool needs"):
                everything(server, password)
        else:
            everything(server, password)
    server.do("ACL", "SETUSER", "builds", "reset", *words)
    connection = Connection(server.place(user="builds", password_file=password))
    script = "return redis.call('HSET', 'other', 'a', 'b')"
    denied = connection.call(
        ("HSET", "other", "a", "b"),
        ("EVAL", script, 0),
        ("EVAL", script, 1, "bs:{p}:"),
        ("PUBLISH", "other", "go"),
        ("SUBSCRIBE", "other"),
        ("CONFIG", "GET", "*"),
        ("FLUSHALL",),
        ("KEYS", "*"),
        ("DEL", "bs:{p}:cfg"),
    )
    connection.close()
    assert all(str(each).startswith("NOPERM") or "executing the script" in str(each) for each in denied), (
        denied
    )


def test_the_watcher_of_the_page_can_look_and_change_nothing(server: Server, tmp_path: Path) -> None:
    """Whoever shows a pool on a screen needs no more."""
    run(server.script().create("test", 2))
    server.do("ACL", "SETUSER", "watcher", *users()["watcher"])
    connection = Connection(server.place(user="watcher", password_file=password_file(tmp_path, "PASSWORD")))
    script = Script(connection, "p")
    try:
        assert run(script.status()).rules.cap == 2
        assert not run(script.holds("a1.1"))
        for steps in (script.join("a1.1"), script.drop("a1.1"), script.set("me", slots=9)):
            with pytest.raises(PoolUnreachableError, match="may not do there what a pool needs"):
                run(steps)
    finally:
        connection.close()
    assert run(server.script().status()).rules.cap == 2


def test_a_user_can_be_kept_to_one_pool(server: Server, tmp_path: Path) -> None:
    """By the patterns that the page names."""
    patterns = re.findall(r"`([~&])bs:\{license\}:\*`", (HERE / "PROTOCOL.md").read_text())
    assert patterns == ["~", "&"]
    words = [re.sub(r"^([~&])bs:\*$", r"\1bs:{license}:*", word) for word in users()["builds"]]
    server.do("ACL", "SETUSER", "builds", *words)
    connection = Connection(server.place(user="builds", password_file=password_file(tmp_path, "PASSWORD")))
    try:
        assert run(Script(connection, "license").create("test", 1)).cap == 1
        with pytest.raises(PoolUnreachableError, match="may not do there what a pool needs"):
            run(Script(connection, "p").create("test", 1))
    finally:
        connection.close()
