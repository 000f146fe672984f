"""A pool in a directory: locks, a line, bells. PROTOCOL.md beside this file says what processes agree on.

In one minute: holding slot N is having the lock of the file `slot-N`, and nothing else counts. Whoever takes
a slot locks it first and counts the held ones then, so that of two at the same moment one sees the other.
Whoever has to wait has a locked, numbered ticket in `queue`; the first live ticket is the head, which alone
may take. A FIFO in `bells` tells the head that a slot was let go of, and each other waiter that the one ahead
has left. Records in `holders` are for people and for the nesting check.

The modules, from the ground up:

    lock        exclusive locks, shared looks, the mutex
    bells       FIFOs that ring, also when their owner is killed
    records     the text that says who holds or waits
    line        tickets: joining, who is ahead, leaving
    holding     taking slots, holding them, letting go
    directory   the pool's directory: arriving, repairs, looking. The `Backend` of this machine
    ears        what a waiter listens to            (these four are loaded only by a process
    sleepers    overtaking those who are stopped     that has to wait)
    kin         whether a build above us has the slot
    wait        looking and sleeping in turns

Which slots are held can be asked of the locks alone at any time, and no process keeps any state for others.
So there is nothing to recover after a crash.
"""
