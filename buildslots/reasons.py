"""Why a build waits: what keeps it back now, for programs (`kind`) and for people (`text`)."""

from __future__ import annotations

from buildslots.words import span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal, TypeAlias

    Kind: TypeAlias = Literal[
        "server", "pause", "restart", "ahead", "slots", "own_cap", "gate", "gate_never", "host"
    ]


class Reason:
    """One thing that keeps a waiting build back at this moment; as a string, its text.

    >>> with build_slot(slots=1):
    ...     one = SlotPool(slots=1, on_wait=lambda wait: print(*wait.reasons))
    ...     one.acquire(timeout=0.1).release()
    a slot: 1 held of 1

    Attributes:
        kind: For programs: "pause" (the pool's rules let nobody start), "ahead" (others are before it in
            line), "slots" (too many are held), "own_cap" (too many are held for its own cap, which is smaller
            than that of others), "gate" (the machine is not as it wants it) or "gate_never" (and never will
            be: it starts when nothing else of the pool runs, or at its timeout). In a pool on a server also
            "server" (which cannot be used), "restart" (of the server, which waits for the holders to report)
            and "host" (its own machine has no slot for it besides, or is not as it wants it). There may be
            more one day.
        text: For people, in words that follow "waits for".
    """

    __slots__ = ("kind", "text")

    def __init__(self, kind: Kind, text: str) -> None:
        self.kind = kind
        self.text = text

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Reason({self.kind!r}, {self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reason) and (self.kind, self.text) == (other.kind, other.text)

    def __hash__(self) -> int:
        return hash((self.kind, self.text))

    def as_dict(self) -> dict[str, str]:
        """The same as a plain dict."""
        return {"kind": self.kind, "text": self.text}


def reasons(  # noqa: PLR0913 - one for each reason
    *,
    ahead: int,
    held: int,
    cap: int,
    weight: int,
    widest: int = 0,
    problem: str | None = None,
    pause: str | None = None,
    restart_s: float = 0.0,
    gate: str | None = None,
    never: str | None = None,
) -> tuple[Reason, ...]:
    """Why who waits does not start now.

    Args:
        ahead: How many are before it in line.
        held: How many slots are held.
        cap: Its K.
        weight: How many slots it needs.
        widest: The largest K that counts for anybody here.
        problem: Why the pool's server cannot be used just now, in words; None if it can, or there is none.
        pause: The pause that is on, if one is.
        restart_s: For how many more seconds nobody starts, because the pool's server has been restarted.
        gate: What of the machine keeps it back, if anything does.
        never: The same, if this machine can never have it.
    """
    found = []
    if problem:
        found.append(Reason("server", f"the server, which cannot be used now ({problem})"))
    if pause:
        found.append(Reason("pause", pause))
    if restart_s > 0:
        what = f"the holders to report after a restart of the server, {span(restart_s)} more"
        found.append(Reason("restart", what))
    if never:
        found.append(Reason("gate_never", never))
    if ahead:
        found.append(Reason("ahead", "the build ahead" if ahead == 1 else f"the {ahead} builds ahead"))
    elif held > cap - weight:
        if held <= widest - weight:
            found.append(Reason("own_cap", f"its own cap of {cap}: {held} held of {widest}"))
        else:
            what = "a slot" if weight == 1 else f"{weight} slots together"
            found.append(
                Reason("slots", f"{what}: {held} held of {cap if held <= cap else max(cap, widest)}")
            )
    elif gate and not never:
        found.append(Reason("gate", gate))
    return tuple(found)
