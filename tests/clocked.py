"""A pool on a real server whose clock is a test's, and of whose script a test may take parts out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fleet_model import Answer, Model

from buildslots.fleet import replies
from buildslots.fleet.script import FLAGS, Source, packaged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from servers import Server

CLOCK = re.compile(rb"local function clock\(\)\n.*?\nend\n", re.DOTALL)
OF_THE_TEST = b"local function clock()\n  return tonumber(redis.call('GET', KEYS[1] .. 'clock'))\nend\n"
SORTED, HASHES = ("q", "u", "hb", "h"), ("cfg", "n", "o")


def clocked(change: Callable[[bytes], bytes] = bytes) -> Callable[[str], Source]:
    """Finds the scripts of the package, with the clock of the test and changed by `change`."""

    def find(name: str) -> Source:
        _, text = packaged(name).text.split(b"\n", 1)
        text, found = CLOCK.subn(OF_THE_TEST, text)
        assert found == 1
        return Source(FLAGS[name], change(text))

    return find


class Pool:
    """The pool `name`: calls of the scripts at the time that a test says, and what is in its keys."""

    def __init__(self, server: Server, name: str = "p", change: Callable[[bytes], bytes] = bytes) -> None:
        self._key = f"bs:{{{name}}}:"
        self._connection = server.connection()
        self._ears = server.connection()
        find = clocked(change)
        self._names = {}
        for script in FLAGS:
            (self._names[script],) = self._connection.call(("SCRIPT", "LOAD", find(script).text))
        self._heard: set[str] = set()
        self._run = ""
        self._before: list[tuple[str | int, ...]] = []

    def call(self, now: int, *words: str | int) -> list[object]:
        """What the script for `words` answers at that time; fails the test if that is an error."""
        script = "slots" if words[0] in {"join", "over", "renew", "drop"} else "rules"
        command = ("EVALSHA", self._names[script], 1, self._key, *words)
        before, self._before = self._before, []
        reply = self._connection.call(*before, ("SET", f"{self._key}clock", now), command)[-1]
        assert isinstance(reply, list), reply
        return reply

    def build(self, now: int, op: str, who: str, *words: str | int, known: str = "") -> replies.Answer:
        """What a build is told that knows such rules."""
        rest = () if op == "drop" else (known, *words)
        return replies.Answer(self.call(now, op, who, *rest))

    def join(self, now: int, who: str, mode: str = "wait", **words: str | int) -> replies.Answer:
        priority, own, seq = (words.get(*each) for each in (("priority", "normal"), ("own", 0), ("seq", 0)))
        return self.build(now, "join", who, mode, priority, own, seq, "")

    def over(self, now: int, who: str, **words: int) -> replies.Answer:
        times = (words.get(each, 0) for each in ("paced", "waited", "stuck"))
        return self.build(now, "over", who, *times, words.get("own", 0), "")

    def renew(self, now: int, who: str, wanted: Iterable[int] = ()) -> replies.Answer:
        return self.build(now, "renew", who, ",".join(map(str, wanted)), "")

    def drop(self, now: int, who: str) -> replies.Answer:
        return self.build(now, "drop", who)

    def create(self, model: Model) -> None:
        """Make it, as the model is."""
        times = (model.lease, model.confirm, model.ticket, model.head_start)
        self.call(model.now, "create", "", "test", model.cap, *times)
        model.seen = model.now

    def restart(self) -> None:
        """Have the server seem to be another run of it."""
        self._before.append(("HSET", f"{self._key}cfg", "run", "another"))

    def wipe(self) -> None:
        """Have the server lose everything."""
        self._before.append(("DEL", *(self._key + key for key in (*SORTED, *HASHES))))

    def listen(self, listening: set[str]) -> None:
        """Have these, and no others, be heard by nobody but us."""
        commands = [("SUBSCRIBE", self._key + who) for who in listening - self._heard]
        commands += [("UNSUBSCRIBE", self._key + who) for who in self._heard - listening]
        if commands:
            self._ears.call(*commands)
        self._heard = set(listening)

    def told(self) -> list[tuple[str, str]]:
        """Who has been told what since the last time."""
        self._ears.call(("PING",))  # whatever was published before is here when that is answered
        messages, self._ears.messages = self._ears.messages, []
        return [(channel.removeprefix(self._key), text) for channel, text in messages]

    def keys(self) -> dict[str, dict[str, str | int]]:
        """As `Model.keys` says it."""
        commands = [("ZRANGE", self._key + key, 0, -1, "WITHSCORES") for key in SORTED]
        commands += [("HGETALL", self._key + key) for key in HASHES]
        found = self._connection.call(*commands)
        keys: dict[str, dict[str, str | int]] = {
            key: {who: int(score) for who, score in reply}  # type: ignore[union-attr, misc]
            for key, reply in zip(SORTED, found, strict=False)
        }
        cfg, keys["n"], owns = found[len(SORTED) :]  # type: ignore[assignment]
        keys["o"] = {who: int(own) for who, own in owns.items()}  # type: ignore[union-attr]
        keys["cfg"] = {name: int(cfg.get(name, 0)) for name in Model(1, 1).keys()["cfg"]}  # type: ignore[union-attr]
        return keys

    def put(self, model: Model) -> None:
        """Bring the pool into the state of `model` before the next call."""
        commands: list[tuple[str | int, ...]] = [("DEL", *(self._key + key for key in (*SORTED, *HASHES)))]
        for key, values in model.keys().items():
            pairs = [(value, name) if key in SORTED else (name, value) for name, value in values.items()]
            if pairs:
                command = "ZADD" if key in SORTED else "HSET"
                commands.append((command, self._key + key, *(word for pair in pairs for word in pair)))
        self._run = self._run or str(self._connection.call(("HGET", f"{self._key}cfg", "run"))[0])
        commands.append(("HSET", f"{self._key}cfg", "run", self._run, "version", 1))
        self._before += commands


def plain(answer: replies.Answer) -> Answer:
    """What the model says of it."""
    return Answer(
        state=answer.state,
        numbers=answer.numbers,
        overflow=answer.overflow,
        place=answer.place,
        length=answer.length,
        used=answer.used,
        cap=answer.cap,
        seq=answer.seq,
        next_ms=-1 if answer.next_s is None else round(answer.next_s * 1000),
        is_near=answer.is_near,
        paused_us=answer.paused_us,
        is_paused=answer.pause is not None,
        closed_us=round(answer.closed_s * 1_000_000),
        turn_us=round(answer.turn_s * 1_000_000),
    )
