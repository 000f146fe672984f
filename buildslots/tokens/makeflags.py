"""MAKEFLAGS: what a user's one says of jobs, and the one that tells a build of its jobserver.

GNU make reads MAKEFLAGS as options (`decode_env_switches` in its src/main.c): words with blanks between them,
the first of them a bundle of letters if it has no dash, and behind a `--` variables. Others look in it for
`--jobserver-auth=`: ninja for the last word that begins so (src/jobserver.cc), cargo for the last such text
(src/lib.rs of the crate jobserver), and so does gcc (gcc/opts-common.cc; before gcc 13 it was the first one).
They do not care about the `--`. So there are two places for a jobserver, and what stands behind the `--` is
for all but make: to make it is a variable with an odd name, which it hands on to other makes.

* A build that says how many jobs it wants has the jobserver before the `--`, and every make below it runs as
  many jobs as there are tokens. A make that is older than 4.4 has descriptors there, because `fifo:` ends it
  with an error; then the FIFO stands behind the `--`, because ninja understands nothing else.
* In a build that says nothing of jobs, every make goes on to run one job at a time, because its Makefile may
  not be fit for more. Ninja is served behind the `--`. gcc is not, and links with the threads that it has
  without us: it would leave the jobs of -flto=auto to a make, which then ran one at a time.
"""

from __future__ import annotations

from buildslots.tokens.commands import MAKE, options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

VARIABLE, CARGO = "MAKEFLAGS", "CARGO_MAKEFLAGS"
"""cargo takes the second one if it is there, and makes it for its build scripts."""
GNU = "GNUMAKEFLAGS"
"""What make reads before MAKEFLAGS."""
AUTH = "--jobserver-auth="
OLD_AUTH = "--jobserver-fds="
"""What it was called before make 4.2."""
DECOY = f"{AUTH}gcc"
"""At the end of a word it is the jobserver that gcc finds, and cannot use. That word begins with two dashes
and has no `n`: Makefiles look for an `s` in words without dashes, and for an `n` in all."""
BLANKS = " \t"


def has_jobserver(environ: Mapping[str, str]) -> bool:
    """Whether somebody above us serves jobs to this build, or says that nobody does (`R,W` below 0)."""
    return any(
        word.startswith((AUTH, OLD_AUTH))
        for name in (VARIABLE, CARGO, GNU)
        for word in environ.get(name, "").split()
    )


def jobs_of(environ: Mapping[str, str]) -> int | None:
    """How many jobs the user wants make to run: N, 0 for a bare `-j`, or None."""
    for name in (VARIABLE, GNU):  # make reads them the other way round, so the first one wins
        said = options(_words(environ.get(name, "")), MAKE)
        if said is not None and said.jobs is not None:
            return said.jobs
    return None


def with_jobs(flags: str, jobs: int, auth: str = "", behind: str = "") -> str:
    """MAKEFLAGS with which makes run `jobs` jobs.

    Args:
        flags: The user's own; what it says besides jobs stays.
        jobs: N.
        auth: The jobserver that all makes are to use.
        behind: One for those that are no make, if that is another one.
    """
    words = _words(flags)
    letters = ""
    if words and flags.lstrip(BLANKS)[0] != "-" and _is_bundle(words[0]):
        letters = words.pop(0)[1:].partition("j")[0]
    said = options(words, MAKE)
    rest = words if said is None else said.bare
    end = rest.index("--") if "--" in rest else len(rest)
    variables = rest[end + 1 :]
    if behind:
        variables.append(AUTH + behind)
    # The letters stay the first word: ninja looks for an `n` in it.
    ours = [letters, f"-j{jobs}", *([AUTH + auth] if auth else [])]
    return " ".join([*ours, *rest[:end], *(["--", *variables] if variables else [])])


def without_jobs(flags: str, auth: str) -> str:
    """MAKEFLAGS with which makes run as many jobs as without us, and ninja uses the jobserver `auth`."""
    is_ended = "--" in flags.split()
    # On both sides, because make turns the order of its variables around.
    return " ".join([flags, *(() if is_ended else ("--",)), f"--x{DECOY}", AUTH + auth, f"--xx{DECOY}"])


def _is_bundle(word: str) -> bool:
    """Whether a word like `-kj8` has no letter with a value, but `j`."""
    return not set(word[1:].partition("j")[0]) & set((MAKE.valued or "") + MAKE.maybe + "-=")


def _words(flags: str) -> list[str]:
    """The words of MAKEFLAGS, as they are written; the first one with its dash."""
    words: list[str] = []
    word, is_escaped = "", False
    for letter in flags:
        if is_escaped or letter not in BLANKS:
            word += letter
            is_escaped = letter == "\\" and not is_escaped
        elif word:
            words.append(word)
            word = ""
    if word:
        words.append(word)
    if words and words[0][0] != "-" and "=" not in words[0]:
        words[0] = f"-{words[0]}"
    return words
