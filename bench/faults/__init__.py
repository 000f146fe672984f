"""Every call fails once: a sweep of injected faults over slot-run and the library.

`python -m bench.faults [--quick] [--scenario NAME] [--call NAME] [--only SCENARIO:CALL:ERROR:N] [--jobs N]`.

Each scenario (`scenarios`) is run once under strace, which writes down the system calls that the process
under test makes from its first look at the pool on (`calls`). Then it is run again for each of these calls
and each error that the call may meet, with strace making that one call fail, and for each signal that may
come there (`run`). After each run the promises of README.md are looked at (`judge`). Nothing here knows how
buildslots works inside: only the command line, the public library and the files of the protocol.

What is not covered. An injected error replaces the call: a close(2) that fails really closes the descriptor
on Linux all the same, which cannot be shown so. The descriptor stays open here until the process has ended,
and so it is judged only then whether the slot is free. The command that runs under the slot is not traced.
"""
