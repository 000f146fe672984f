"""The protocol on disk as a model that is small enough to look at every state it can ever be in.

`buildslots/disk/PROTOCOL.md` says in words what processes do to share slots. Here is the same as a program
whose steps are the system calls that others can notice, one at a time, and a checker that takes those steps
in every order there is: whoever can move moves next, dies, or is stopped. So a claim about "whatever happens
in between" is looked up, not argued.

A process goes through these steps (`Process.at`); beside each stands the function that it models:

    away ──► arrive                          PoolDirectory.take_or_join, line.tickets
    arrive ─► try                            nobody is in line: taking.take
    arrive ─► create ─► lock ─► joined       somebody is: line.Ticket, lock_file
    lock ───► knock ─► joined                with a head start: Ticket._knock_behind
    look ──► ahead                           Wait._look, Ticket.ahead
    ahead ─► try                             the head takes; behind sleepers only, others too (Sleepers)
    ahead ─► follow ─► listening ─► sleep    all others: Ears._listen_to_ticket
    try … try ─► count … count ─► hang       slots one by one: taking._lock_lowest; then Hold.__init__
    count ─► let go ─► hear, listen, hear …  too many were held: Locks.let_go, Ears._listen_to_slots
    hear ──► ahead                           one was let go of meanwhile: look again
    hear ──► listening ─► sleep              Wait._sleep, in poll(2)
    sleep ─► look                            a bell, or a timer: `Ears.is_deaf` and its 50 ms
    sleep ─► late ─► overflow ─► hang        the timeout: PoolDirectory.exceed, taking.take_beyond
    hang ──► taken ─► start                  the mutex is let go of, the command is started
    start ─► leave ─► leave bell ─► run      Admission.started, Ticket.leave
    run ───► unlock ─► ring ─► away          Hold.release
    any ───► dying ─► dead                   SIGKILL: the kernel closes bells, then locks

Beside them somebody may set the pool's rules, which are a cap or a pause (0): first the file is replaced, and
then all in line are knocked at (`disk.ruling.change`). A process knows the rules that it read last: when it
arrives, when it looks, and when it begins to take.

The code does what `waiters=SURE` and `listens_first` say: the head that a bell wakes takes at once
(`Wait._is_head`), and a bell is listened to before its slot is asked for.

Who has a head start (`high`) joins before all who have none, and knocks at the ticket behind it.

Time is not modelled, but who needs it is: a sleeper that only a timer can wake is `deaf`, and the checker
tells those from the ones that hear a bell. Left out are what cannot change who runs (records, the journal,
knocks but for those of rules), the limits in tickets' names, that a head in a pause looks now and then, and
that a head whose try was in vain reads the line anew before the next.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from traced import Traced

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NO, HAS, LOST = 0, 1, 2
"""`Process.mutex`: it has the mutex; it believes so, but another one has removed the file."""
NEVER, NOW, BEFORE = 0, 1, 2
"""`Process.stopped`."""
CREATED, LIVE = 1, 2
"""`Process.ticket`: the file is there; it is there and locked."""
MUTEX, FREE, SURE = "mutex", "free", "sure"
"""`Protocol.waiters`: they look and take under the mutex; without it; and the head does not even look again
whether it still is the head. Who arrives needs the mutex in any case."""


class Process(NamedTuple):
    """What one process knows, and has in the pool. Sets of slots are bit masks."""

    cap: int = 1
    weight: int = 1
    overflows: bool = False  # whether its timeout may pass
    builds: int = 1  # that it has still to run
    at: str = "away"
    slot: int = 0  # which it tries, counts or hears
    mutex: int = NO
    locks: int = 0  # slots that it has locked
    older: int = 0  # slots that others held for good when it locked its own, and still do
    bells: int = 0  # slots whose bells it keeps open
    ticket: int = NO
    head: bool = False  # nobody was in line before it when it looked last
    place: int = 0  # its ticket's number; kept until the bell of the ticket is closed
    turn: int = 0  # the same, kept until its build starts
    seen: int = 0  # slots that it found held by others
    ears: int = 0  # bells of slots that it listens to
    rang: int = 0  # those of them that have rung since
    after: int = 0  # number of the ticket whose bell it listens to
    called: bool = False  # that one's bell was closed
    knocked: bool = False  # somebody who has set rules asks it to look
    deaf: bool = False  # something that it waits for has no bell: it polls
    stopped: int = NEVER
    beyond: bool = False  # it runs beyond the cap
    high: bool = False  # it has a head start on all that are not
    excused: bool = False  # it was taking when one with a head start joined before it
    name: int = 0  # 0: processes alike are not told from each other

    @property
    def limit(self) -> int:
        """Below how many held slots it may start."""
        return self.cap - self.weight + 1

    @property
    def holds(self) -> int:
        """The slots that it has for good: it has counted, and not let go yet."""
        return 0 if self.at in {"try", "count", "let go"} else self.locks

    @property
    def is_over(self) -> bool:
        """Whether it will do nothing any more."""
        return self.at in {"done", "dead"}


class State(NamedTuple):
    """All processes, alike ones in any order; and how many stops are still to come."""

    processes: tuple[Process, ...]
    stops: int = 0
    kept: int = 0  # bells of slots that a daemon, left behind by an earlier build, has open as well
    rules: int = 0  # how many of the protocol's rules were set
    told: int = 0  # of how many of them all in line were told


Next = tuple[str, Process, tuple[Process, ...]]
"""A step: what happens, the process after it, and all others after it."""


@dataclass(frozen=True)
class Protocol:
    """The rules, and what may go wrong.

    Attributes:
        processes: At the beginning.
        waiters: How they look and take: MUTEX, FREE or SURE.
        kills: Whether processes may die, at any step.
        stops: How many of them may be stopped, at any step; each may go on again, or never.
        daemons: Whether builds may leave a daemon behind that keeps the bell open.
        rules: Caps that the pool says, one after the other, or 0 for a pause; the first from the beginning.
        listens_first: To the bell of each slot, and asks then whether it is held; not the other way round.
        broken: A rule that is broken, to see that the checker finds it.
    """

    processes: tuple[Process, ...]
    waiters: str = MUTEX
    kills: bool = False
    stops: int = 0
    daemons: bool = False
    rules: tuple[int, ...] = ()
    listens_first: bool = True
    broken: str = ""

    @property
    def slots(self) -> int:
        """How many slot files come into play: up to the largest cap, and one for each that overflows."""
        return max(*self.rules, *(p.cap for p in self.processes)) + sum(p.overflows for p in self.processes)

    def start(self) -> State:
        """The state at the beginning."""
        return _canonical(State(self.processes, self.stops))

    # All that can happen next.

    def successors(self, state: State) -> Iterator[tuple[str, Process, State]]:
        """Each step that can come next: what it is, the process that takes it, and the state after it."""
        if state.told < state.rules:
            all_ = tuple(p._replace(knocked=True) if p.ticket == LIVE else p for p in state.processes)
            if self.broken == "sets rules in silence":
                all_ = state.processes
            yield "knocks", SETTER, _canonical(state._replace(processes=all_, told=state.rules))
        elif state.rules + 1 < len(self.rules):
            yield "sets rules", SETTER, _canonical(state._replace(rules=state.rules + 1))
        for me, others in _each(state.processes):
            if me.is_over:
                continue
            if me.stopped != NOW:
                knows = self.ruled(me, state) if _reads(me) else me
                for what, then, rest in self._steps(knows, others, state.kept):
                    kept = state.kept & ~then.bells if what == "hang" else state.kept
                    if what == "ring, a daemon stays":
                        kept |= me.bells
                    yield what, me, _canonical(state._replace(processes=(then, *rest), kept=kept))
            yield from ((what, me, after) for what, after in self._accidents(state, me, others))

    def _accidents(
        self, state: State, me: Process, others: tuple[Process, ...]
    ) -> Iterator[tuple[str, State]]:
        if me.at == "dying":
            return
        if self.kills:
            yield "is killed", _canonical(state._replace(processes=_killed(me, others)))
        if me.stopped == NOW:
            yield "goes on", _canonical(state._replace(processes=(me._replace(stopped=BEFORE), *others)))
            if me.mutex == HAS:  # lock.Mutex: removed by somebody who could not get it for a second
                yield (
                    "loses the mutex",
                    _canonical(state._replace(processes=(me._replace(mutex=LOST), *others))),
                )
        elif state.stops and me.stopped == NEVER:
            stopped = (me._replace(stopped=NOW), *others)
            yield "is stopped", _canonical(state._replace(processes=stopped, stops=state.stops - 1))

    def ruled(self, me: Process, state: State) -> Process:
        """`me` with the cap that the pool says now."""
        return me._replace(cap=self.rules[state.rules]) if self.rules else me

    def _steps(  # noqa: PLR0911, PLR0912 - one for each step
        self, me: Process, others: tuple[Process, ...], kept: int
    ) -> Iterable[Next]:
        """What `me` may do next."""
        if me.at in {"away", "late"} or (me.at == "look" and self.waiters == MUTEX):
            if any(other.mutex == HAS for other in others):
                return ()
            then = {"away": "arrive", "late": "overflow", "look": "ahead"}[me.at]
            return [("gets the mutex", me._replace(at=then, mutex=HAS, slot=me.cap), others)]
        match me.at:
            case "arrive":
                return [self._arrive(me, _tidied(others))]
            case "create":
                number, others = self._number(me, others)
                return [("create", me._replace(at="lock", ticket=CREATED, place=number, turn=number), others)]
            case "lock":
                if me.ticket != CREATED:  # nobody's, so somebody removed it
                    return [("lock in vain", me._replace(at="create"), others)]
                return [("lock", me._replace(at="knock" if me.high else "joined", ticket=LIVE), others)]
            case "knock":
                return [("knocks at who is behind", me._replace(at="joined"), self._behind(me, others))]
            case "joined" | "taken" | "listening":
                return [("lets the mutex go", self._outside(me._replace(mutex=NO)), others)]
            case "look":
                return [("look", me._replace(at="ahead"), others)]
            case "ahead":
                return self._ahead(me, _tidied(others))
            case "follow":
                return [self._follow(me, others)]
            case "try":
                return [self._try(me, others)]
            case "count":
                return [self._count(me, others)]
            case "let go":
                return [self._let_go(me, others)]
            case "hear":
                return [self._hear(me, others)]
            case "listen":
                return [self._listen(me, others)]
            case "sleep":
                return self._sleep(me, others)
            case "overflow":
                return [self._overflow(me, others)]
            case "hang":
                return [self._hang(me, others, kept)]
            case "start":
                return [
                    ("start", me._replace(at="leave" if me.ticket else "run", turn=0, excused=False), others)
                ]
            case "leave" | "leave bell":
                return [self._leave(me, others)]
            case "run":
                then = "ring" if self.broken == "rings before it unlocks" else "unlock"
                return [("the build ends", me._replace(at=then), others)]
            case "unlock":
                return [self._unlock(me, others)]
            case "ring":
                return self._ring(me, others)
            case "dying":
                return [("its locks go", _dead(me), _called(me.place, _freed(me.locks, others)))]
        raise AssertionError(me.at)

    def _outside(self, me: Process) -> Process:
        """`me` goes on at once unless it has to let the mutex go first."""
        if me.mutex:
            return me
        if me.at == "taken" and me.ticket and self.broken == "leaves before it starts":
            return me._replace(at="leave")
        return me._replace(at={"joined": "look", "taken": "start", "listening": "sleep"}[me.at])

    # Arriving and waiting.

    def _arrive(self, me: Process, others: tuple[Process, ...]) -> Next:
        waits = any(other.ticket == LIVE for other in others)
        if self.broken == "newcomers push in":
            waits = False
        if waits:
            return "somebody waits", me._replace(at="create"), others
        return "nobody waits", self._to_take(me), others

    def _number(self, me: Process, others: tuple[Process, ...]) -> tuple[int, tuple[Process, ...]]:
        """The number of the ticket of `me`; and all others, who leave room for it."""
        behind = [other.place for other in others if me.high and not other.high and other.ticket]
        if me.place or not behind:
            return me.place or 1 + max((other.place for other in others), default=0), others
        first = min(behind)
        return first, tuple(_moved(other, first) for other in others)

    def _behind(self, me: Process, others: tuple[Process, ...]) -> tuple[Process, ...]:
        """All others, after `me` has joined before some and knocked at the first of them that is alive."""
        taking = {"try", "count", "let go", "hang", "taken", "start"}
        others = tuple(o._replace(excused=o.turn > me.turn and o.at in taking) for o in others)
        heard = [o.place for o in others if o.ticket == LIVE and o.at != "dying" and o.place > me.place]
        if not heard or self.broken == "joins before others in silence":
            return others
        return tuple(o._replace(knocked=o.knocked or o.place == min(heard)) for o in others)

    def _to_take(self, me: Process) -> Process:
        first = "count" if self.broken == "counts before it takes" else "try"
        return me._replace(at=first, slot=0, seen=0)

    def _ahead(self, me: Process, others: tuple[Process, ...]) -> Iterator[Next]:
        ahead = _ahead_of(me, others)
        me = me._replace(head=not ahead, excused=False)
        if not ahead:
            yield "is the head", self._to_take(me), others
            return
        last = max(other.place for other in ahead)
        yield "is not the head", me._replace(at="follow", after=last), others
        if _all_asleep(ahead) and self.broken != "waits for sleepers":
            yield "overtakes sleepers", self._to_take(me), others

    def _follow(self, me: Process, others: tuple[Process, ...]) -> Next:
        if any(other.place == me.after and other.at != "dying" for other in others):
            return "listens to the one ahead", self._outside(me._replace(at="listening")), others
        return (
            "the one ahead has left",
            self._outside(me._replace(at="listening", after=0, deaf=True)),
            others,
        )

    def _sleep(self, me: Process, others: tuple[Process, ...]) -> Iterator[Next]:
        ahead = _ahead_of(me, others)
        awake = self._again(me)
        if me.rang or me.called or me.knocked:
            yield "hears a bell", awake, others
        elif me.deaf or (ahead and _all_asleep(ahead)):
            yield "timer", awake, others
        if me.overflows:
            yield "its timeout", awake._replace(at="late"), others

    def _again(self, me: Process) -> Process:
        """It looks again, and has closed what it listened to."""
        me = me._replace(at="look", slot=0, seen=0, ears=0, rang=0, after=0, called=False, deaf=False)
        me = me._replace(excused=False)
        # What comes after it has read its bell empty wakes it again.
        me = me._replace(head=me.head and not me.knocked, knocked=False)
        return self._to_take(me) if self.waiters == SURE and me.head else me

    # Taking: lock the lowest, then count the others; all or none.

    def _try(self, me: Process, others: tuple[Process, ...]) -> Next:
        bit = 1 << me.slot
        if me.limit < 1:
            return "the pool is paused", self._failed(me), others
        if not bit & _locked(others):
            me = me._replace(locks=me.locks | bit, older=_locked(o for o in others if o.holds))
            what = f"locks {me.slot}"
        else:
            me = me._replace(seen=me.seen + 1)
            what = f"{me.slot} is held"
        if me.locks.bit_count() == me.weight:
            if self.broken == "counts before it takes":
                return what, me._replace(at="hang"), others
            return what, me._replace(at="count", slot=0, seen=0), others
        if me.seen >= me.limit or me.slot + 1 == self.slots:
            return what, self._failed(me), others
        return what, me._replace(slot=me.slot + 1), others

    def _count(self, me: Process, others: tuple[Process, ...]) -> Next:
        bit = 1 << me.slot
        me = me._replace(seen=me.seen + bool(bit & _locked(others)), slot=me.slot + 1)
        if me.slot < self.slots:
            return f"counts {me.slot - 1}", me, others
        if me.seen >= me.limit:
            return "counts too many", self._failed(me), others
        if self.broken == "counts before it takes":
            return "counts, has room", me._replace(at="try", slot=0, seen=0), others
        return "counts, has room", me._replace(at="hang"), others

    def _failed(self, me: Process) -> Process:
        """It may not start: with what it has locked, to be let go of."""
        if me.locks:
            return me._replace(at="let go")
        return me._replace(at="hear" if me.ticket else "create", slot=0, seen=0)

    def _let_go(self, me: Process, others: tuple[Process, ...]) -> Next:
        me = me._replace(locks=me.locks & me.locks - 1, older=0)
        return "lets go", self._failed(me), others

    def _overflow(self, me: Process, others: tuple[Process, ...]) -> Next:
        bit = 1 << me.slot
        if bit & _locked(others):
            return f"{me.slot} is held", me._replace(slot=me.slot + 1), others
        return f"locks {me.slot}, beyond the cap", me._replace(at="hang", locks=bit, beyond=True), others

    def _hang(self, me: Process, others: tuple[Process, ...], kept: int) -> Next:
        """Make the bells: the FIFO that is there serves again, so that its listeners stay; see bells.hang."""
        if self.broken == "throws rung bells away":
            kept_here = me.locks & kept
            # A daemon has it open: emptied like any other, but left to the daemon; who listens to it is deaf.
            others = tuple(o._replace(ears=o.ears & ~kept_here, rang=o.rang & ~kept_here) for o in others)
        silenced = me.locks & ~kept
        others = tuple(other._replace(rang=other.rang & ~silenced) for other in others)
        return "hang", self._outside(me._replace(at="taken", bells=me.locks, older=0)), others

    # Listening: which slots are held, and their bells.

    def _hear(self, me: Process, others: tuple[Process, ...]) -> Next:
        if me.slot == self.slots:
            if me.seen < me.limit and self.broken != "does not look again":
                again = self._again(me)
                return "a slot is free now", again._replace(at="ahead") if me.mutex else again, others
            return "all bells are heard", self._outside(me._replace(at="listening", slot=0, seen=0)), others
        if self.listens_first:
            bit = 1 << me.slot
            ears = me.ears | bit if any(bit & other.bells for other in others) else me.ears
            return "listens", me._replace(at="listen", ears=ears), others
        if not 1 << me.slot & _locked(others):
            return f"{me.slot} is free", me._replace(slot=me.slot + 1), others
        return f"{me.slot} is held", me._replace(at="listen", seen=me.seen + 1), others

    def _listen(self, me: Process, others: tuple[Process, ...]) -> Next:
        bit = 1 << me.slot
        me = me._replace(at="hear", slot=me.slot + 1)
        if self.listens_first:
            if not bit & _locked(others):
                return "it is free", me._replace(ears=me.ears & ~bit, rang=me.rang & ~bit), others
            return "it is held", me._replace(seen=me.seen + 1, deaf=me.deaf or not bit & me.ears), others
        if any(bit & other.bells for other in others):
            return "listens", me._replace(ears=me.ears | bit), others
        return "there is no bell", me._replace(deaf=True), others

    # Leaving the line, and letting go.

    def _leave(self, me: Process, others: tuple[Process, ...]) -> Next:
        if me.at == "leave":
            return "leave", me._replace(at="leave bell", ticket=NO), others
        if self.broken == "leaves without a sound":
            others = tuple(o._replace(after=0) if o.after == me.place else o for o in others)
        then = "start" if me.turn else "run"
        return "close the ticket's bell", me._replace(at=then, place=0), _called(me.place, others)

    def _unlock(self, me: Process, others: tuple[Process, ...]) -> Next:
        others = _freed(me.locks & -me.locks, others)
        me = me._replace(locks=me.locks & me.locks - 1)
        if me.locks:
            return "unlock", me, others
        if self.broken == "rings before it unlocks":
            return "unlock", _next_build(me), others
        return "unlock", me._replace(at="ring"), others

    def _ring(self, me: Process, others: tuple[Process, ...]) -> Iterator[Next]:
        others = _rung(me.bells, others)
        then = (
            me._replace(at="unlock", bells=0) if self.broken == "rings before it unlocks" else _next_build(me)
        )
        yield "ring", then, others
        if self.daemons:
            yield "ring, a daemon stays", then, others


SETTER = Process(at="setting rules")


def _reads(me: Process) -> bool:
    """Whether `me` reads the rules in its next step."""
    return me.at in {"arrive", "look"} or (me.at == "try" and not (me.slot or me.locks or me.seen))


def _next_build(me: Process) -> Process:
    fresh = Process(
        me.cap, me.weight, me.overflows, me.builds - 1, stopped=me.stopped, name=me.name, high=me.high
    )
    return fresh if fresh.builds else fresh._replace(at="done", stopped=NEVER)


def _dead(me: Process) -> Process:
    return Process(me.cap, me.weight, at="dead", builds=0, name=me.name)


def _killed(me: Process, others: tuple[Process, ...]) -> tuple[Process, ...]:
    """All, after `me` was killed. The kernel closes its descriptors in turn: bells first, at the worst."""
    others = _called(me.place, _rung(me.bells, others))
    return (me._replace(at="dying", bells=0, stopped=NEVER, turn=0), *others)


def _freed(slots: int, others: tuple[Process, ...]) -> tuple[Process, ...]:
    return tuple(o._replace(older=o.older & ~slots) if o.older else o for o in others)


def _rung(bells: int, others: tuple[Process, ...]) -> tuple[Process, ...]:
    return tuple(other._replace(rang=other.rang | other.ears & bells) for other in others)


def _moved(process: Process, first: int) -> Process:
    """`process` after all numbers from `first` on have become larger by one."""
    place, turn, after = (n + (n >= first) for n in (process.place, process.turn, process.after))
    return process._replace(place=place, turn=turn, after=after)


def _called(place: int, others: tuple[Process, ...]) -> tuple[Process, ...]:
    return tuple(
        other._replace(called=True, after=0) if place and other.after == place else other for other in others
    )


def _tidied(others: tuple[Process, ...]) -> tuple[Process, ...]:
    """Without tickets that nobody has locked: `line.live` removes them."""
    return tuple(other._replace(ticket=NO) if other.ticket == CREATED else other for other in others)


def _locked(processes: Iterable[Process]) -> int:
    locked = 0
    for process in processes:
        locked |= process.locks
    return locked


def _ahead_of(me: Process, others: tuple[Process, ...]) -> list[Process]:
    return [other for other in others if other.ticket == LIVE and other.place < me.place]


def _all_asleep(processes: Iterable[Process]) -> bool:
    return all(process.stopped == NOW for process in processes)


def _each(processes: tuple[Process, ...]) -> Iterator[tuple[Process, tuple[Process, ...]]]:
    for index, process in enumerate(processes):
        yield process, processes[:index] + processes[index + 1 :]


def _canonical(state: State) -> State:
    """One state for all that differ only in who is who, and in how large the numbers of tickets are."""
    numbers = sorted({number for p in state.processes for number in (p.place, p.turn) if number})
    if numbers and numbers[-1] != len(numbers):
        rank = {0: 0} | {old: new for new, old in enumerate(numbers, 1)}
        renumbered = [
            p._replace(place=rank[p.place], turn=rank[p.turn], after=rank[p.after])
            if p.turn or p.place or p.after
            else p
            for p in state.processes
        ]
        return state._replace(processes=tuple(sorted(renumbered)))
    return state._replace(processes=tuple(sorted(state.processes)))


# The checker.


class Space(Traced):
    """All states that a protocol can reach, and what was found in them.

    Attributes:
        states: How many there are.
        polls: In how many of them a slot is free that only a timer (the 50 ms poll) will tell the head.
    """

    def __init__(self, protocol: Protocol) -> None:
        """Visit all states. Raises ViolationError at the first one that must not be, by a shortest way."""
        super().__init__()
        self._protocol = protocol
        start = protocol.start()
        self._numbers = {start: 0}
        self.moves: list[list[tuple[int, int, str]]] = []  # of each state: the next one, who moves, what
        self.polls = 0
        queue = deque([start])
        while queue:
            state = queue.popleft()
            number = len(self.moves)
            moves = []
            for what, who, after in protocol.successors(state):
                if after not in self._numbers:
                    self._numbers[after] = len(self._came)
                    self._came.append((number, f"{who.name or '·'} at {who.at}: {what}"))
                    queue.append(after)
                if what == "start":
                    self._check_turn(number, who, state)
                if what not in ACCIDENTS:
                    moves.append((self._numbers[after], who.name, what))
            self.moves.append(moves)
            self._check(number, state)
        self.states = len(self.moves)

    def _check_turn(self, number: int, who: Process, state: State) -> None:
        """Builds start in the order in which they joined; but for who was stopped, or runs beyond the cap."""
        if who.turn and not who.beyond and not who.excused:
            for other in state.processes:
                if other.high and other.at in {"create", "lock", "knock"}:
                    continue  # it has yet to say that it is there
                if 0 < other.turn < who.turn and other.stopped == who.stopped == NEVER:
                    self._fail("starts before one that joined earlier", number)

    def _check(self, number: int, state: State) -> None:
        # Whoever was stopped has perhaps lost the mutex, and with it the exact order of those who arrive.
        calm = state.stops == self._protocol.stops and all(p.stopped == NEVER for p in state.processes)
        for me, others in _each(state.processes):
            if me.at == "hang" and not me.beyond and me.older.bit_count() >= me.limit:
                self._fail("more run than the cap allows", number)
            if me.at == "hang" and not me.ticket and any(o.ticket == LIVE for o in others) and calm:
                self._fail("a newcomer overtakes who waits", number)
            knows = self._protocol.ruled(me, state) if state.told == state.rules else me
            if not me.knocked and _sleeps_beside_a_free_slot(knows, others):
                if not me.deaf:
                    self._fail("sleeps beside a free slot, and nothing will wake it", number)
                self.polls += 1

    def check_all_end(self) -> None:
        """From every state all can come to their ends. Raises ViolationError for one where they cannot."""
        into: list[list[int]] = [[] for _ in self.moves]
        for number, moves in enumerate(self.moves):
            for after, _, _ in moves:
                into[after].append(number)
        good = [number for state, number in self._numbers.items() if _is_settled(state)]
        seen = set(good)
        while good:
            for before in into[good.pop()]:
                if before not in seen:
                    seen.add(before)
                    good.append(before)
        for number in range(len(self.moves)):
            if number not in seen:
                self._fail("somebody waits for ever", number)

    def check_no_livelock(self) -> None:
        """Nobody waits for ever while all who can move do, again and again. The processes have names.

        Raises ViolationError for a round that may be repeated for ever: each process moves in it, or is
        somewhere in it where it cannot. But for who polls until one that is stopped goes on.
        """
        states = list(self._numbers)
        for circle in _circles(self.moves):
            inside = set(circle)
            if any(p.stopped == NOW for p in states[circle[0]].processes if not p.beyond):
                continue
            names = {who for number in circle for after, who, _ in self.moves[number] if after in inside}
            stuck = {who for number in circle for who in _cannot_move(states[number], self.moves[number])}
            if all(p.is_over or p.name in names | stuck for p in states[circle[0]].processes):
                self._fail(f"a round of {len(circle)} states can be repeated for ever", min(circle))


def _cannot_move(state: State, moves: list[tuple[int, int, str]]) -> set[int]:
    return {p.name for p in state.processes} - {who for _, who, _ in moves}


def _circles(moves: list[list[tuple[int, int, str]]]) -> Iterator[list[int]]:
    """The strongly connected components with more than one state: Tarjan's algorithm, without recursion."""
    order: dict[int, int] = {}
    low: dict[int, int] = {}
    on_path: dict[int, None] = {}
    for root in range(len(moves)):
        if root in order:
            continue
        work = [(root, iter(moves[root]))]
        order[root] = low[root] = len(order)
        on_path[root] = None
        while work:
            number, rest = work[-1]
            for after, _, _ in rest:
                if after not in order:
                    order[after] = low[after] = len(order)
                    on_path[after] = None
                    work.append((after, iter(moves[after])))
                    break
                if after in on_path:
                    low[number] = min(low[number], order[after])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[number])
                if low[number] == order[number]:
                    circle = []
                    while not circle or circle[-1] != number:
                        circle.append(on_path.popitem()[0])
                    if len(circle) > 1:
                        yield circle


ACCIDENTS = ("is killed", "is stopped", "goes on")
"""What may happen but need not."""


def _sleeps_beside_a_free_slot(me: Process, others: tuple[Process, ...]) -> bool:
    """Whether `me` could start now, is asleep, and nobody is just about to ring for it."""
    if me.at != "sleep" or me.stopped == NOW or me.rang or me.called:
        return False
    if _ahead_of(me, others) or _locked(others).bit_count() >= me.limit:
        return False
    return not any(_is_about_to_ring(other, me) for other in others)


def _is_about_to_ring(other: Process, me: Process) -> bool:
    """Whether `other` has let go of something, and rings next, so that `me` will hear it."""
    return (other.at in {"unlock", "ring"} and other.bells & me.ears != 0) or (
        other.at == "leave bell" and other.place == me.after
    )


def _is_settled(state: State) -> bool:
    """Whether everybody is over, is stopped, or waits for one stopped that has a slot, or has yet to ring.

    The last is the price of bells beside the locks: one may be stopped between the two system calls.
    """
    stopped = [p for p in state.processes if p.stopped == NOW]
    kept = _locked(stopped).bit_count()
    return all(
        p.is_over
        or p.stopped == NOW
        or (p.at == "sleep" and (kept >= p.limit or any(_is_about_to_ring(other, p) for other in stopped)))
        or (
            p.at == "sleep"
            and _ahead_of(p, state.processes)
            and not _all_asleep(_ahead_of(p, state.processes))
        )
        for p in state.processes
    )
