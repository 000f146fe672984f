"""A slot as it is seen from outside: what its record and its bell say of who holds it."""

from __future__ import annotations

from buildslots.disk import bells, records


class Seen:
    """What is seen of slot `number` from outside: its last record, and whether its bell still has an owner.

    One look for all who ask: status, the waiting line, the nesting check, release. The bell is asked before
    the record is read. Whoever takes a slot writes its record before it hangs its bell; so behind a bell that
    has an owner there is the record of that owner, or of a later one, and never an earlier one's.

    Attributes:
        number: N of `slot-N`.
        has_owner: Whether whoever hung the bell, or its child, lives and has not let go; None without a bell.
        record: The last record; None if there is none, if it has ended, or if it cannot be read.
    """

    __slots__ = ("has_owner", "number", "record")

    def __init__(self, directory: str, number: int, *, strict: bool = False) -> None:
        """Look at the pool `directory`. With `strict` an OSError is raised, and does not pass for "none"."""
        self.number = number
        self.has_owner: bool | None = None
        self.record: dict[str, str] | None = None
        try:
            self.has_owner = bells.has_owner(f"{directory}/bells/slot-{number}")
        except OSError:
            if strict:
                raise
        try:
            self.record = records.read_or_fail(f"{directory}/holders/slot-{number}")
        except OSError:
            if strict:
                raise

    @property
    def nonce(self) -> str | None:
        """What marks the holding, as its record says."""
        return None if self.record is None else self.record.get("nonce")

    @property
    def is_foreign(self) -> bool:
        """Whether nothing of ours explains that the slot is locked: after a crash the record remains."""
        if self.record is None or self.has_owner is False:
            return True
        return self.has_owner is None and not records.lives(self.record)
