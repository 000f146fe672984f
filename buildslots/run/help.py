"""What `slot-run --help` says."""

HELP = """\
Usage: slot-run [OPTIONS] [--] COMMAND [ARG...]

Run COMMAND under one of the machine's K build slots; wait in line while all are held.

  slot-run make -j8                  at most K builds at once, this one among them
  slot-run -p link -n 1 -- cc ...    a pool of its own for links, one at a time
  slot-run -t 10m --on-timeout fail -- cargo build     rather fail than crowd the machine

Options:
  -n, --slots K             how many may run at once [by default for this machine]
  -p, --pool NAME           the pool to take the slot from [default]
  -t, --timeout DURATION    how long to wait: 90, 90s, 2m, 1h30m, 0, none [120s]
      --on-timeout WHAT     then run it without a slot, run it when those before it have
                            had a timeout each (paced), or exit 75 (fail) [run]
  -w, --weight W            how many slots it needs, taken together [1]
      --min-free-memory 2G  while others build, wait for so much memory as well,
      --max-load N          for a load average of at most N,
      --max-pressure LIST   for pressure of at most so many percent: io=40,memory=10 (Linux)
  -q, --quiet               say nothing but warnings
      --dir PATH            directory of the default pool [~/.cache/.build-slots]
      --version             print the version and exit
  -h, --help                print this and exit

Environment: MAX_CONCURRENT_BUILDS (the default pool's K), MAX_CONCURRENT_BUILDS_<NAME>,
BUILD_SLOTS_POOL, BUILD_SLOTS_TIMEOUT, BUILD_SLOTS_ON_TIMEOUT, BUILD_SLOTS_DIR,
BUILD_SLOTS_JOURNAL (off, programs, commands). The command sees BUILD_SLOT, the number of its
slot. Inside of it, slot-run runs at once under that slot.

Exit status: COMMAND's own, or death by the signal that killed it; 125 wrong usage, 126 COMMAND
cannot be executed, 127 COMMAND not found, 75 no slot in time.

Who holds the slots: `buildslots status`. Completion with Tab: `buildslots completion --help`.
"""
