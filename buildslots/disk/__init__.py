"""The protocol on disk: everything two processes must agree on, in any language.

A pool is a directory::

    slot-N            one empty file per slot, N = 0, 1, 2, … without leading zeros
    mutex             locked while a process looks at slots and queue together
    queue/TICKET      one file per waiter, named NUMBER-LIMIT, 20 digits (below 10**17) and 1 to 9 digits
    holders/slot-N    who holds slot N (a record)
    bells/slot-N      FIFO; the holder of slot N keeps it open
    bells/TICKET      FIFO; the owner of the ticket keeps it open
    pools/NAME        a named pool: a directory like this one (in the default pool only)
    .aside-*          what had one of these names and was none of ours; never read, removed by people

**Locks.** Every lock is an exclusive, non-blocking, advisory `flock(2)` of the whole file (on
Windows, `LockFileEx` of the byte at offset 0). It belongs to the open file description, so it
is gone when the last descriptor is closed, however the process ended, and an explicit unlock
frees it whoever else still has a copy. A lock counts only if, after it was won, the file still
has its name (`fstat` and `stat` agree): a cache cleaner may have removed it. If not, open the
name again. Slot files are created when missing and never removed, truncated or written, and opened for
reading only, since builds inherit the descriptors. (Unless that is refused with EBADF: NFS wants to write.)

**Modes.** In a pool whose directory is setgid and group-writable and not everybody's (mode & 02022 ==
02020) files and FIFOs are made 0660 and directories 2770, whatever the umask: each member of the group
locks, reads and overwrites, removes and knocks at what is another's. In any other pool they are 0600 and
0700. A named pool takes after the default pool. A directory is made under another name and renamed, and
so appears with its mode; a file has it a moment later, so a member who may not open something in a
group's pool tries again a few times. What exists is opened without O_CREAT, what does not is made with
O_EXCL, what is only locked need not be writable. No process needs to signal another.

**Who else can write the pool**, or a directory above it, is not trusted. Who makes, writes or removes
something opens its directory first, checks that no symbolic link has led there but one of its own or
root's, none at all in the place of `queue`, `holders` or `bells`, and names it by that descriptor. A record
is written only into a regular file that has no other name, and that is empty, begins with NULs or is a
record; a ticket is removed only if it is such a file, a bell if it is a FIFO, the mutex if it is an empty
file. Whatever else has such a name, and what cannot be opened for longer than it takes to make, is given
the name `.aside-NAME-RANDOM` in its directory (an empty file of one's own is made readable again, an empty
directory in the line removed). A mode is changed by a descriptor, and only of what was made just now. No
look at masses of names takes long: tickets that were not come to within 0.1 s count as alive, slots within
0.5 s as held.

**Holding** slot N is holding the lock of `slot-N`. Nothing else counts: a program that knows
none of this and runs `flock slot-0 make` is a holder like any other.

**The mutex** is held for a fraction of a millisecond while a process arrives: it makes the order of
arrival exact. It is *not* what bounds the pool: see "Taking". Therefore a process that cannot get it
for a second (its owner is stopped in the middle, say) removes the file and goes on with a new one, and
without any if it cannot get that for half a second: somebody keeps it on purpose. So it does after two
seconds of one build in all, and a second after its timeout. Who only looks waits for it for 0.2 s.

**Looking** at a lock without wanting it is taking it shared and dropping it at once. A slot that could
not be locked, but that is not held, was looked at: try again.

**Arriving**, under the mutex: if no live ticket is in the queue, try to take a slot. Otherwise,
or when none can be had, join: create `queue/TICKET` exclusively, lock it, make its bell, write a
record into it. NUMBER is the wall clock in microseconds, or one more than the largest number in
the queue if that is larger; LIMIT says below how many held slots the waiter may start: its K, or
K - W + 1 if it needs W slots. Live means locked exclusively. A ticket that is not
belongs to nobody; whoever finds it locks it shared, removes its bell and then the file.

**Taking**, when arriving or at the head of the line: lock the lowest slot that can be locked; *then*
count the slots that others hold. If they are LIMIT or more, let go again. Who needs W slots, at most K,
locks the lowest W and counts then: all or none, so that nobody waits while it has some. Of two processes
that take at the same moment the one that counts last sees the other's lock, so no more than K ever start,
whatever became of the mutex. An overflow build takes the lowest slots that can be locked from number
K up and does not count. Who wants something of the machine's state as well (memory, load) asks after
counting, and lets go if it is not so, unless nobody else holds a slot.

**Waiting.** The head of the queue (no live ticket before its own) tries to take whenever a bell of
a held slot rings. Everybody else listens to the bell of the live ticket before its own. At a ring the
head need not look at the queue, for nobody comes before it any more; those who join again with their
numbers, when the pool directory was removed, knock at the ticket behind theirs. Nor does it need the
mutex: but for those who fall through or pass sleepers, nobody else takes while it is in line, and of them
and the head none can pass the count that the others have passed. When it counts, a slot whose bell it listens
to and that has not rung is a held one.

**A bell** is a FIFO that its owner opened for reading and writing. Whoever hangs one uses the FIFO
that is there, after reading it empty, if nobody else has it open to write; otherwise it rings that
again, if it had rung, for those who still listen to it, removes it and makes a new one. A bell has
rung when it has no writer any more (the owner let go or died: end of file for a reader, POLLHUP) or,
at a slot, when bytes lie in it (the owner let go while some other process may have a copy of the
descriptor). A listener that asks by reading takes one byte at most; who rings writes 64, so that all
others still find some. A bell may be missing, may ring a little before the lock is gone, and may
ring for nothing. Only the lock tells. While the lock of
a held slot has no bell that works, the head looks again every 50 ms.

**Sleepers.** Bytes in the bell of a *ticket* are a knock: its owner reads them away and looks. (If all are
`3` they only say that it comes near, and is to glance twice a second.) A waiter that has seen
a slot lie free for a second, which all those before it could have taken by the LIMITs in their names,
who all got a knock and left it unread all that time, takes it. The second in line knocks 0.1 s after it
saw the slot, each one further back half a second later.

**Falling through** one after the other (`--on-timeout paced`): under the mutex, after its timeout T, whoever
has P live tickets before its own (names of one file are one) takes overflow slots if no record in `holders`
was written for T * (P + 1) of its own wait. Whoever takes slots or lets go of them writes one. Others can do
so, too: who has not come forward in the line for T * (P + 2) takes them in any case.

**Starting.** Who waited leaves the line when its build has started, not when it has the slot: so builds
start in the order in which they joined.

**Holding on**: who has taken a slot writes its record, and hangs its bell after that. The records of several
slots have one nonce. A command inherits the locks, and its bells opened for writing only.

**Letting go** of a slot: unlock, write into the bell if another process may have a copy of it, close; of
several, unlock all, then ring and close each. Only then say in each record that it has ended; who has no
bell does so first. (Stopped between unlocking and closing, it counts as the holder if a foreign program locks
the slot.) Leaving the line: unlock the ticket, close its bell, and remove both files, unless the next has
found them dead and done so. Before that, when it has to wait as the head, or else then, one puts a `3` into
the third bell behind its own: those who are near watch the head most closely, should those before them be
stopped.

**Nesting.** The environment variable BUILD_SLOTS_HELD lists the slots that a command runs under, `N:NONCE`
joined by commas; the last 64 count. Such an entry is believed while slot N is locked, its bell has not rung,
and its record, read after these two, has that nonce. If one of them is there and cannot be read, the build
runs at once without a slot: it might wait for its own.

The modules: `lock` (locks, the mutex, files and directories), `bells`, `records`, `slots` (the directory,
taking), `queue` (tickets), `wait` and `handover` (the waiting itself, loaded only when one has to wait).
"""
