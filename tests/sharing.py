"""The sharing of tokens as a model that is small enough to look at every state it can ever be in.

`buildslots.tokens.share.Share` decides for one build, and this is the very code that runs here. Around it
stands what it asks: the tokens, the jobserver of each build with a client that takes bytes and puts them
back, what builds say of themselves, bells, and timers that may end at any moment. Whoever can move moves
next, in every order; brokers and commands may be killed or stopped in between, and rings get lost.

A broker's look is taken apart where others can see it or be seen: at each token that it takes or gives, at
each word to the others, each look at them and each ring. Where it is in a look is known by what it was told
so far, so a state is a value: to go on, the look is begun anew and told the same again.

A build (`Build.at`) is

    LIVE ────► FROZEN ──► LIVE      its broker is stopped by SIGSTOP; its client goes on
    LIVE ────► ORPHAN ──► GONE      its broker is killed; its client goes on with the bytes that it has, and
                                    what was locked stays so until it ends
    LIVE ────► ENDING ──► GONE      it has ended, and its broker gives all back

and its command may be stopped, which its broker sees, and go on. Time is not modelled: how long a timer runs
changes how fast shares get equal, and not whether.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import permutations
from types import GeneratorType
from typing import TYPE_CHECKING, Any, NamedTuple

from traced import Traced

from buildslots.tokens import share as rule
from buildslots.tokens.share import Other, Share

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = 1.0
OVER, ARMED = 0.0, 2.0
"""Deadlines that have passed by then, and such that have not."""
FINE, COARSE, WHOLE = range(3)
"""`World.grain`."""
LIVE, FROZEN, ORPHAN, ENDING, GONE = "live", "frozen", "orphan", "ending", "gone"
"""`Build.at`."""
SEEN = {LIVE, FROZEN}
"""Whose record is locked."""
MENDS = {"thaws", "is continued", "the orphan ends"}
"""What undoes an accident."""

State = tuple[int, ...]
"""The numbers of all builds, and how many accidents may still happen."""

Word = tuple[int, bool, int]
"""What a build says of itself: tokens held, whether it is hungry, its sequence."""


class Mind(NamedTuple):
    """What one broker knows, and where it is in its look."""

    memory: tuple[Any, ...]  # of its `Share`, when the look began; its own sequence is 0 there
    is_looking: bool = False
    is_rung: bool = False
    over: str = ""  # the timer that has ended
    is_end: bool = False
    answers: tuple[Any, ...] = ()  # to what it has asked so far


class Build(NamedTuple):
    """One build: its broker, its client, what others see of it."""

    demand: int = 1  # how many jobs beyond the first its client can run
    cap: int = 1
    mind: int = -1  # the number of a `Mind`
    unread: int = 0
    jobs: int = 0  # bytes that its client has
    locks: int = 0
    word: Word = (0, False, 0)
    touched: bool = False
    rung: bool = False
    at: str = LIVE
    stopped: bool = False  # its command
    owes: int = 0  # so many jobs may run without a token: they were stopped, and go on


@dataclass(frozen=True)
class World:
    """What there is, and what may go wrong.

    Attributes:
        builds: At the beginning.
        tokens: C.
        accidents: How many may happen.
        kinds: Which: "killed", "frozen", "stopped", "ends", "lost" (a ring), "changes" (its demand).
        rule: What decides: `Share`, or one that is broken, to see that the checker finds it.
        grain: How far a broker's look is taken apart: at each thing that others can notice (FINE), at each
            token that it takes or gives (COARSE), or not at all (WHOLE).
    """

    builds: tuple[Build, ...]
    tokens: int = 1
    accidents: int = 0
    kinds: frozenset[str] = frozenset()
    rule: type[Share] = Share
    grain: int = COARSE


class Minds:
    """All minds that there have been, by number, and what each does next."""

    def __init__(self, share: type[Share]) -> None:
        self._share = share
        self._numbers: dict[Mind, int] = {}
        self._minds: list[Mind] = []
        self._asks: dict[int, tuple[str, str, Word, tuple[Any, ...]]] = {}
        self._alike: dict[tuple[Any, ...], int] = {}
        self._told: dict[tuple[int, Any], int] = {}
        self._wakes: dict[tuple[int, bool], tuple[bool, list[tuple[str, bool]]]] = {}

    def number(self, mind: Mind) -> int:
        found = self._numbers.get(mind)
        if found is None:
            found = len(self._minds)
            self._minds.append(mind)
            if mind.is_looking:
                # What has led there does not matter, but what is known, and where it stands.
                steps, what, whom, share = self._run(mind)
                known = frozen(share)
                self._asks[found] = what, whom, (share.held, share.is_hungry, share.sequence), known
                found = self._alike.setdefault((what, whom, mind.memory[4], known, where(steps)), found)
            self._numbers[mind] = found
        return found

    def new(self, cap: int) -> int:
        """One that knows nothing yet."""
        return self.number(Mind(frozen(self._share(cap))))

    def __getitem__(self, number: int) -> Mind:
        return self._minds[number]

    def timers(self, number: int) -> list[tuple[str, bool]]:
        """Its timers that may end now, and whether each wakes it."""
        found = self._wakes.get(number)
        if found is None:
            share = self._thawed(self._minds[number].memory)
            waits_for = share.waits_for()
            found = self._wakes[number] = [
                (name, name in waits_for) for name, end in share.deadlines.items() if end > NOW
            ]
        return found

    def wake(self, number: int, build: Build, over: str) -> int:
        """The mind when `build` looks, after the timer `over` has ended, if any has."""
        memory = self._minds[number].memory
        memory = (*memory[:5], build.stopped, *memory[6:])  # it hears of that by SIGCHLD
        return self.number(Mind(memory, True, build.rung, over, build.at == ENDING))

    def asks(self, number: int) -> tuple[str, str, Word, tuple[Any, ...]]:
        """What it asks for next, of whom, what it would say now, what it knows; "" for nothing any more."""
        return self._asks[number]

    def _run(self, mind: Mind) -> tuple[Any, str, str, Share]:
        share = self._thawed(mind.memory)
        if mind.over:
            share.deadlines[mind.over] = OVER
        steps = share.end() if mind.is_end else share.look(NOW, is_rung=mind.is_rung)
        try:
            what, whom = next(steps)
            for told in mind.answers:
                answer = told
                if isinstance(told, tuple):
                    answer = [Other(n, h, s, is_hungry=y) for n, h, y, s in told]
                what, whom = steps.send(answer)
        except StopIteration:
            return steps, "", "", share
        return steps, what, whom, share

    def told(self, number: int, answer: Any) -> int:
        """The mind after that answer."""
        found = self._told.get((number, answer))
        if found is None:
            mind = self._minds[number]
            found = self._told[number, answer] = self.number(mind._replace(answers=(*mind.answers, answer)))
        return found

    def _thawed(self, memory: tuple[Any, ...]) -> Share:
        share = self._share(1)
        share.cap, share.held, share.out, share.is_hungry, share.sequence, share.is_stopped = memory[:6]
        share.known = [Other(n, h, s, is_hungry=True) for n, h, s in memory[6]]
        share._given, share._passed = dict(memory[7]), dict(memory[8])
        share.deadlines = {name: OVER if is_over else ARMED for name, is_over in memory[9]}
        return share


def where(steps: Any) -> Any:  # noqa: PLR0911 - one for each kind
    """At which point a generator stands: its place in the code, its variables, and whom it waits for."""
    if isinstance(steps, GeneratorType):
        frame = steps.gi_frame
        if frame is None:
            return None
        names = sorted(set(frame.f_locals) - {"self", "__class__"})
        known = tuple((name, where(frame.f_locals[name])) for name in names)
        return frame.f_code.co_name, frame.f_lasti, known, where(steps.gi_yieldfrom)
    if isinstance(steps, Other):
        return steps.name, steps.held, steps.sequence, steps.is_hungry
    if isinstance(steps, list | tuple):
        return tuple(where(each) for each in steps)
    if isinstance(steps, dict):
        return tuple((k, where(v)) for k, v in sorted(steps.items()))
    if steps is None or isinstance(steps, int | float | str):
        return steps
    return where(steps.__reduce__()[1:])  # an iterator of a list


def frozen(share: Share) -> tuple[Any, ...]:
    """What a `Share` knows, as a value. Whether it is somebody's turn is left open at each look."""
    known = tuple((o.name, o.held, o.sequence) for o in share.known)
    timers = sorted(
        (name, end <= NOW and name != rule.TURN)
        for name, end in share.deadlines.items()
        if not (name == rule.SATED and end <= NOW) and not (name == rule.AGAIN and not share.is_hungry)
    )
    return (
        *(share.cap, share.held, share.out, share.is_hungry, share.sequence, share.is_stopped),
        *(known, tuple(sorted(share._given.items())), tuple(sorted(share._passed.items())), tuple(timers)),
    )


class Move(NamedTuple):
    """What one build can do next, and what others notice of it at once."""

    what: str
    build: int
    rings: tuple[int, ...] = ()
    by: int = 0  # by how much its sequence is higher than before
    is_accident: bool = False


class Steps:
    """All that can happen in a world. Builds go by numbers, so that a state is a few of them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._minds = Minds(world.rule)
        self.builds: list[Build] = []
        self._numbers: dict[Build, int] = {}
        self._moves: dict[tuple[Any, ...], list[Move]] = {}
        self._renamed: dict[tuple[int, tuple[int, ...]], int] = {}
        self._orders = list(permutations(range(len(world.builds))))

    def start(self) -> State:
        """All have just begun, and have yet to look."""
        builds = [b._replace(mind=self._minds.new(b.cap), touched=True) for b in self._world.builds]
        return self._canonical([self._number(b) for b in builds], self._world.accidents)

    def after(self, state: State) -> Iterator[tuple[str, State]]:
        """Each step that can come next, and the state after it. Accidents begin with an exclamation mark."""
        accidents = state[-1]
        builds = [self.builds[number] for number in state[:-1]]
        free = self._world.tokens - sum(b.locks for b in builds)
        for i, me in enumerate(builds):
            key = (i, state[i], free, *(b.word if b.at in SEEN else None for b in builds))
            moves = self._moves.get(key)
            if moves is None:
                moves = self._moves[key] = list(self._of(i, me, builds, free))
            for move in moves:
                if move.is_accident and not accidents:
                    continue
                then = list(state[:-1])
                then[i] = move.build
                for j in move.rings:
                    if self.builds[then[j]].at in SEEN:
                        then[j] = self._number(self.builds[then[j]]._replace(rung=True))
                if move.by:
                    self._renumber(then, i, move.by)
                what = f"{'! ' * (move.is_accident or move.what in MENDS)}{i}: {move.what}"
                yield what, self._canonical(then, accidents - move.is_accident)

    def _number(self, build: Build) -> int:
        found = self._numbers.get(build)
        if found is None:
            found = self._numbers[build] = len(self.builds)
            self.builds.append(build)
        return found

    def _of(self, i: int, me: Build, builds: list[Build], free: int) -> Iterator[Move]:
        """What build `i` may do next."""
        for what, then in _client(me):
            yield Move(what, self._number(then))
        if me.at in {LIVE, ENDING}:
            if self._minds[me.mind].is_looking:
                yield self._goes_on(i, me, builds, free)
            else:
                for over, wakes in [("", False), *self._minds.timers(me.mind)]:
                    if me.touched or me.rung or wakes:
                        mind = self._minds.wake(me.mind, me, over)
                        woken = me._replace(touched=False, rung=False, mind=mind)
                        yield self._quietly(f"looks {over}", i, woken, builds, free)
        for what, then in self._accidents(me):
            yield Move(what, self._number(then), is_accident=True)
        if me.at == FROZEN:
            yield Move("thaws", self._number(me._replace(at=LIVE)))
        if me.stopped:
            goes_on = me._replace(stopped=False, touched=True, owes=me.jobs + me.unread)
            yield Move("is continued", self._number(goes_on))
        if me.at == ORPHAN:
            yield Move("the orphan ends", self._number(Build(at=GONE)))

    def _accidents(self, me: Build) -> Iterator[tuple[str, Build]]:
        kinds = self._world.kinds
        if me.at != LIVE:
            return
        if "killed" in kinds:
            yield "is killed", me._replace(at=ORPHAN, mind=-1, word=(0, False, 0), touched=False, rung=False)
        if "frozen" in kinds:
            yield "is frozen", me._replace(at=FROZEN)
        if "stopped" in kinds and not me.stopped:
            yield "is stopped", me._replace(stopped=True, touched=True)
        if "ends" in kinds and not self._minds[me.mind].is_looking and not me.stopped:
            yield "ends", me._replace(at=ENDING, touched=True, jobs=0, unread=0, demand=0)
        if "lost" in kinds and me.rung:
            yield "does not hear the bell", me._replace(rung=False)
        if "changes" in kinds:
            yield "changes its mind", me._replace(demand=0 if me.demand else me.cap)

    def _goes_on(self, i: int, me: Build, builds: list[Build], free: int) -> Move:
        what, whom, word, _ = self._minds.asks(me.mind)
        answer: Any = 0
        rings: tuple[int, ...] = ()
        if what == rule.LOCK:
            answer = int(free > 0)
            me = me._replace(locks=me.locks + answer)
            what = "takes a token" if answer else "finds no token"
        elif what == rule.UNLOCK:
            me = me._replace(locks=me.locks - 1)
            what = "gives a token back"
        elif what == rule.SAY:
            me = me._replace(word=word)
            what = f"says {word}"
        elif what == rule.OTHERS:
            answer = _words(builds, i)
            what = "looks at the others"
        else:
            rings = (int(whom),)
            what = f"rings {whom}"
        me = me._replace(mind=self._minds.told(me.mind, answer))
        return self._quietly(what, i, me, builds, free, rings)

    def _quietly(  # noqa: PLR0917
        self, step: str, i: int, me: Build, builds: list[Build], free: int, rings: tuple[int, ...] = ()
    ) -> Move:
        """The move with all that `me` does next, up to what is a step of its own, or to sleep."""
        grain = self._world.grain
        free -= me.locks - builds[i].locks
        while True:
            what, whom, word, memory = self._minds.asks(me.mind)
            if what == rule.UNREAD:
                me = me._replace(mind=self._minds.told(me.mind, me.unread))
            elif what == rule.PUT:
                me = me._replace(mind=self._minds.told(me.mind, 0), unread=me.unread + 1)
            elif what == rule.BACK:
                got = int(me.unread > 0)
                me = me._replace(mind=self._minds.told(me.mind, got), unread=me.unread - got)
            elif what == rule.SAY and grain != FINE:
                me = me._replace(mind=self._minds.told(me.mind, 0), word=word)
            elif what == rule.OTHERS and grain != FINE:
                me = me._replace(mind=self._minds.told(me.mind, _words(builds, i)))
            elif what == rule.RING and grain != FINE:
                rings = (*rings, int(whom))
                me = me._replace(mind=self._minds.told(me.mind, 0))
            elif what == rule.LOCK and grain == WHOLE:
                taken = int(free > 0)
                free -= taken
                me = me._replace(mind=self._minds.told(me.mind, taken), locks=me.locks + taken)
            elif what == rule.UNLOCK and grain == WHOLE:
                free += 1
                me = me._replace(mind=self._minds.told(me.mind, 0), locks=me.locks - 1)
            elif what:
                return Move(step, self._number(me), rings)
            elif me.at == ENDING:
                return Move(step, self._number(Build(at=GONE)), rings)
            else:
                break
        held, hungry, said = me.word
        by = memory[4]
        me = me._replace(
            mind=self._minds.number(Mind((*memory[:4], 0, *memory[5:]))),
            word=(held, hungry, said - by),
            owes=0 if me.jobs + me.unread <= me.locks else me.owes,
        )
        return Move(step, self._number(me), rings, by)

    # States that differ only in how large the sequences are, or in who is who, are one.

    def _renumber(self, state: list[int], i: int, by: int) -> None:
        """Let what others know of the sequences of build `i` count from its new one, which is 0."""
        name = str(i)
        builds = {j: self.builds[n] for j, n in enumerate(state) if j != i and self.builds[n].mind >= 0}
        known = {s for b in builds.values() for s in _sequences(self._minds[b.mind], name)}
        older = sorted((s - by for s in known if s < by), reverse=True)
        new = {s: s - by for s in known if s >= by} | {s + by: -n for n, s in enumerate(older, 1)}
        for j, b in builds.items():
            mind = self._minds.number(_renumbered(self._minds[b.mind], name, new))
            state[j] = self._number(b._replace(mind=mind))

    def _canonical(self, builds: list[int], accidents: int) -> State:
        if len(builds) == 1:
            return (*builds, accidents)
        return (
            *min(tuple(self._renaming(builds[i], order) for i in order) for order in self._orders),
            accidents,
        )

    def _renaming(self, number: int, order: tuple[int, ...]) -> int:
        """The build `number` after each build `order[i]` is called `i`."""
        found = self._renamed.get((number, order))
        if found is None:
            build = self.builds[number]
            if build.mind >= 0:
                mind = _renamed(self._minds[build.mind], {str(old): str(i) for i, old in enumerate(order)})
                build = build._replace(mind=self._minds.number(mind))
            found = self._renamed[number, order] = self._number(build)
        return found


def _sequences(mind: Mind, name: str) -> Iterator[int]:
    """Which sequences of the build `name` this one knows."""
    yield from (s for n, _, s in mind.memory[6] if n == name)
    yield from (s for memory in mind.memory[7:9] for n, s in memory if n == name)
    for answer in mind.answers:
        if isinstance(answer, tuple):
            yield from (s for n, _, _, s in answer if n == name)


def _renumbered(mind: Mind, name: str, new: dict[int, int]) -> Mind:
    m = mind.memory
    known = tuple((n, h, new[s] if n == name else s) for n, h, s in m[6])
    given, passed = (tuple((n, new[s] if n == name else s) for n, s in memory) for memory in m[7:9])
    answers = tuple(
        tuple((n, h, y, new[s] if n == name else s) for n, h, y, s in answer)
        if isinstance(answer, tuple)
        else answer
        for answer in mind.answers
    )
    return mind._replace(memory=(*m[:6], known, given, passed, m[9]), answers=answers)


def _renamed(mind: Mind, names: dict[str, str]) -> Mind:
    m = mind.memory
    known = tuple((names[n], h, s) for n, h, s in m[6])
    given, passed = (tuple(sorted((names[n], s) for n, s in memory)) for memory in m[7:9])
    answers = tuple(
        tuple((names[n], *word) for n, *word in answer) if isinstance(answer, tuple) else answer
        for answer in mind.answers
    )
    return mind._replace(memory=(*m[:6], known, given, passed, m[9]), answers=answers)


def _words(builds: list[Build], i: int) -> tuple[tuple[str, int, bool, int], ...]:
    """What all but build `i` say of themselves."""
    return tuple((str(j), *b.word) for j, b in enumerate(builds) if j != i and b.at in SEEN)


def _client(me: Build) -> Iterator[tuple[str, Build]]:
    if me.stopped or me.at in {ENDING, GONE}:
        return
    touched = me.at != ORPHAN
    if me.unread and me.jobs < me.demand:
        yield "starts a job", me._replace(unread=me.unread - 1, jobs=me.jobs + 1, touched=touched)
    if me.jobs:
        yield "ends a job", me._replace(unread=me.unread + 1, jobs=me.jobs - 1, touched=touched)


# The checker.


class Space(Traced):
    """All states that a world can reach, and what was found in them.

    Attributes:
        states: How many there are.
        unfair: In how many of them somebody could have more, now or after a job's end.
        polls: In how many of them a token lies unused, and only that a hungry build looks again after a while
            will tell it.
    """

    def __init__(self, world: World) -> None:
        """Visit all states. Raises ViolationError at the first one that must not be, by a shortest way."""
        super().__init__()
        self._world = world
        steps = Steps(world)
        start = steps.start()
        numbers = {start: 0}
        self._into: list[list[int]] = [[]]
        self._good: list[int] = []
        queue = deque([start])
        self.polls = number = 0
        while queue:
            state = queue.popleft()
            builds = [steps.builds[number] for number in state[:-1]]
            self._check(number, builds)
            is_quiet = polls_only = True
            for what, after in steps.after(state):
                other = numbers.get(after)
                if other is None:
                    other = numbers[after] = len(numbers)
                    self._came.append((number, what))
                    self._into.append([])
                    queue.append(after)
                if what[0] != "!":
                    self._into[other].append(number)
                    is_quiet = is_quiet and what.endswith(" job")
                    polls_only = polls_only and what.endswith((" job", f"looks {rule.AGAIN}"))
            if polls_only and any(_misses(builds, i, world.tokens) for i in range(len(builds))):
                if is_quiet:
                    self._fail("a token lies unused, and nobody will look", number)
                self.polls += 1
            if _is_good(builds, world.tokens):
                self._good.append(number)
            number += 1
        self.states = number
        self.unfair = number - len(self._good)

    def _check(self, number: int, builds: list[Build]) -> None:
        if sum(b.locks for b in builds) > self._world.tokens:
            self._fail("more tokens than there are", number)
        for build in builds:
            if build.jobs + build.unread > build.locks + build.owes and not build.stopped:
                self._fail("a job may start without a token", number)

    def check_fair(self) -> None:
        """From every state shares can become fair, without accidents. Raises ViolationError if not."""
        seen, todo = set(self._good), list(self._good)
        while todo:
            for before in self._into[todo.pop()]:
                if before not in seen:
                    seen.add(before)
                    todo.append(before)
        for number in range(self.states):
            if number not in seen:
                self._fail("shares stay unfair for ever", number)


def _wants(build: Build) -> bool:
    """Whether it could run one more job, and has no byte for it."""
    return (
        build.at == LIVE
        and not build.stopped
        and not build.unread
        and build.jobs < min(build.demand, build.cap)
    )


def _misses(builds: list[Build], i: int, tokens: int) -> bool:
    """Whether build `i` could run one more job with what is free, or lies unread where nobody wants it."""
    if not _wants(builds[i]):
        return False
    if sum(b.locks for b in builds) < tokens:
        return True
    return any(b.at == LIVE and b.unread and b.jobs >= min(b.demand, b.cap) for b in builds)


def _is_good(builds: list[Build], tokens: int) -> bool:
    """Whether nobody could have more but from one that has at most one more; and all debts are settled."""
    for i, me in enumerate(builds):
        if me.owes and me.at == LIVE and not me.stopped:
            return False
        if _misses(builds, i, tokens):
            return False
        if _wants(me) and any(b.at == LIVE and b.locks > me.locks + 1 for b in builds):
            return False
    return True
