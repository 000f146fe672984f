"""Numbers and other processes' words, made fit for people to read.

What others wrote may be hostile: a command, a directory, a host's name. `printable` takes out what is no
text, `cells` and `fit` measure what is left as a terminal does, and `shown` does all that in bounded time.
Texts that are not ASCII load `unicodedata` (1 MB), the others nothing.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATH_SHOWN = 120
"""Cells of a directory in a sentence or a table; of a longer one the end, which tells directories apart."""
COMMAND_SHOWN = 200
"""Cells of a command line in a table; --json has all that is known of it."""
WITHOUT_HIREDIS = (
    "hiredis, which speaks to servers, is not installed here: install this package as 'buildslots[redis]'"
)
NAME_SHOWN = 64
"""Cells of the name of a host, a user or a file; Linux gives a host's 64 bytes (HOST_NAME_MAX)."""
SENTENCE_SHOWN = 1000
"""Cells of an error, or of another text that may repeat what others wrote."""
MOMENTS = "moments"
"""An estimate of next to no time."""
MARKS = 2
"""Marks that a character keeps: enough for Vietnamese, Thai and Arabic, too few for a stack of accents."""

# Printable to Python, and without ink: fillers, ignorable letters and marks, Braille without dots, a musical
# note without a head, a hieroglyph's space. From Default_Ignorable_Code_Point in DerivedCoreProperties.txt,
# and the names with BLANK and NULL in UnicodeData.txt.
_BLANK = frozenset(
    (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0, 0x13441, 0x13442, 0x16FE4, 0x1D159)
)
# Variation selectors and the two joiners. They have no ink either, but belong into emoji, Persian and Hindi.
# Without them the text is still readable, and terminals agree on its width.
_JOINER, _EMOJI = "\u200d", "\ufe0f"
_DROPPED = frozenset(
    (*range(0x180B, 0x1810), 0x200C, 0x200D, *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))
)
# Vowels and finals of decomposed Hangul: letters that are drawn into the syllable before them.
_HANGUL = frozenset((*range(0x1161, 0x1200), *range(0xD7B0, 0xD7FC)))
# Colours of an emoji's skin: drawn into it, or, where a terminal cannot, behind it.
_SKIN = frozenset(range(0x1F3FB, 0x1F400))
# Wide since Unicode 16; the tables of Python 3.11 to 3.13 are older.
_WIDE = frozenset(
    (*range(0x2630, 0x2638), *range(0x268A, 0x2690), *range(0x4DC0, 0x4E00), *range(0x1D300, 0x1D377))
)
# Numbers in circles on black squares: wide to the C library of GNU, and so to tmux.
_PERHAPS_WIDE = frozenset(range(0x3248, 0x3250))


def span(seconds: float) -> str:
    """`seconds` for people: "0.5 s", "7 s", "2 min 5 s", "1 h 10 min", "3 d 4 h"."""
    if 0.05 <= seconds < 0.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def roughly(seconds: float) -> str:
    """An estimate for people, who would take more digits for more than it is: "moments", "20 s", "3 min"."""
    if seconds < 3:
        return MOMENTS
    if seconds < 57.5:
        return f"{max(5 * round(seconds / 5), 5)} s"
    minutes = max(round(seconds / 60), 1)
    if minutes < 10:
        return f"{minutes} min"
    if minutes < 90:
        return f"{5 * round(minutes / 5)} min"
    hours = round(seconds / 3600)
    return f"{hours} h" if hours < 48 else f"{round(seconds / 86400)} d"


def size(count: int) -> str:
    """`count` bytes for people: "0 MiB", "734 MiB", "1.2 GiB"."""
    mebibytes = round(count / 2**20)
    return f"{mebibytes} MiB" if mebibytes < 1000 else f"{count / 2**30:.1f} GiB"


def counted(numbers: tuple[int, ...]) -> str:
    """`numbers`, ascending, for people: "0", "0-3,7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)


def batch_name(batch: str) -> str:
    """The name of a batch, out of the ID of one of its runs: NAME-DATE-TIME; the ID itself, if it is none."""
    name, *date_and_time = batch.rsplit("-", 2)
    if len(date_and_time) == 2 and len(date_and_time[0]) == 8 and date_and_time[0].isdecimal():
        return name
    return batch


def printable(text: str) -> str:
    """`text` without anything that could steer a terminal, hide, or grow out of its line.

    "?" stands for what is no visible character: controls, marks of direction, spaces other than " ", blank
    letters, halves of surrogate pairs. A character keeps `MARKS` marks; variation selectors and joiners are
    dropped behind characters that are not ASCII.
    """
    if text.isascii():
        return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)
    unicode = _unicode()
    if unicode is None:
        return printable(text.encode("ascii", "replace").decode())
    category = unicode[0]
    kept: list[str] = []
    marks = 0  # which may still follow
    for c in text:
        number = ord(c)
        if number in _DROPPED and kept and not kept[-1].isascii():
            continue
        if not c.isprintable() or number in _BLANK or number in _DROPPED:
            c = "?"  # noqa: PLW2901 - what stands for it
        elif number >= 0x80 and (category(c)[0] == "M" or number in _HANGUL or number in _SKIN):
            if marks:
                kept.append(c)
                marks -= 1
            elif not kept:  # it would go to the character before ours
                kept.append("?")
            continue
        kept.append(c)
        marks = MARKS
    return "".join(kept)


def cells(text: str) -> int:
    """How many cells of a terminal `text` takes: wide characters two, marks and the like none."""
    if text.isascii() and text.isprintable():
        return len(text)
    return sum(width for _, width in _clusters(text))


def fit(text: str, width: int, *, most: bool = False) -> str:
    """`text` in at most `width` cells; if that cuts it, it ends in "…". No character loses its marks.

    Args:
        text: What `printable` made.
        width: In cells; 0 and less leaves nothing.
        most: Whether to count as those terminals do that need most room. They do not agree on the vowels of
            India and the colours of emoji's skin.
    """
    used = end = cut = 0
    if text.isascii() and len(text) <= width:
        return text
    for cluster, room in _clusters(text, most=most):
        used += room
        if used > width:
            return text[:cut] + "…" if width > 0 else ""
        end += len(cluster)
        if used < width:
            cut = end
    return text


def fit_end(text: str, width: int) -> str:
    """The end of `text` in at most `width` cells, as `fit`: if that cuts it, it begins with "…"."""
    clusters = list(_clusters(text))
    used = sum(room for _, room in clusters)
    if used <= width:
        return text
    start = 0
    for cluster, room in clusters:
        if used < width:
            break
        used -= room
        start += len(cluster)
    return "…" + text[start:] if width > 0 else ""


def shown(text: str, width: int) -> str:
    """What others wrote, made printable and cut to `width` cells, in time that does not grow with `text`."""
    read = text[: _read(width)]
    return fit(printable(read) + "…" * (len(read) < len(text)), width)


def shown_end(text: str, width: int) -> str:
    """Likewise, but the end of `text`."""
    read = text[-_read(width) :]
    return fit_end("…" * (len(read) < len(text)) + printable(read), width)


def short_path(path: str, width: int = PATH_SHOWN) -> str:
    """`path` with ~ for the home directory, made fit to print: its end, if it is wider than `width` cells."""
    home = os.path.expanduser("~")
    if home != "~" and (path == home or path.startswith(home + os.sep)):
        path = "~" + path[len(home) :]
    return shown_end(path, width)


def _read(width: int) -> int:
    """How many characters to look at for `width` cells: a base and its marks in each, and some to drop."""
    return 4 * (1 + MARKS) * max(width, 1)


def _unicode() -> tuple[Callable[[str], str], Callable[[str], str]] | None:
    """The category and the width of a character in Unicode's tables; None if they cannot be loaded.

    That is where no descriptor is left.
    """
    try:
        from unicodedata import category, east_asian_width  # noqa: PLC0415 - 1 MB that ASCII does not need
    except (ImportError, OSError):
        return None
    return category, east_asian_width


def _clusters(text: str, *, most: bool = False) -> Iterator[tuple[str, int]]:
    """Each character of `text` with the marks that follow it, and its cells; with `most` as in `fit`."""
    cluster, room, joined = "", 0, False
    for c in text:
        width, apart = (1, 1) if " " <= c <= "~" or c == "…" else _width(c)
        if cluster and (joined or not width):
            cluster += c
            if most and not joined:
                room += apart
            if c == _EMOJI and room == 1 and not cluster[0].isalpha():
                room = 2
        else:
            if cluster:
                yield cluster, room
            cluster, room = c, apart if most else width
        joined = c == _JOINER
    if cluster:
        yield cluster, room


def _width(c: str) -> tuple[int, int]:
    """The cells of `c` as most terminals have it, and as those do that need most room."""
    unicode = _unicode()
    if unicode is None:
        return 2, 2
    category, east_asian_width = unicode
    number, kind = ord(c), category(c)
    width = 2 if east_asian_width(c) in "WF" or number in _WIDE else 1
    if kind in ("Mn", "Me", "Cf", "Cc") or number in _HANGUL:
        return 0, 0
    if kind == "Mc" or number in _SKIN:
        return 0, width
    return width, 2 if number in _PERHAPS_WIDE else width


LONGEST_WORD = 1000
"""Characters of a word in a command that people are told; nobody reads or copies more."""


def shell_word(text: str) -> str | None:
    """`text` as one word for sh(1), with ~ for the home directory; None if it cannot be shown as it is.

    What is not fit to print would be shown as something else, and a command with that would be about another
    file.
    """
    import shlex  # noqa: PLC0415 - re, for advice only

    home = os.path.expanduser("~")
    if os.environ.get("HOME") and home != "~" and (text == home or text.startswith(home + os.sep)):
        rest = text[len(home) + 1 :]
        word = f"~/{shlex.quote(rest)}" if rest else "~"
    else:
        word = shlex.quote(text)
    is_fit = len(word) <= LONGEST_WORD and word.isprintable() and printable(word) == word
    return word if is_fit else None


def prose(text: str) -> str:
    """`text`, made fit to print, for a sentence in which backticks stand around commands."""
    return shown(text, SENTENCE_SHOWN).replace("`", "?")


def prose_path(path: str) -> str:
    """The same of a path, with ~ for the home directory."""
    return short_path(path).replace("`", "?")


def whoami() -> str:
    """Who does something, as others read it: the user's name and the host's."""
    # By the uid: LOGNAME, which `getpass.getuser` asks first, is whatever the caller says it is.
    try:
        import pwd  # noqa: PLC0415 - for who sets the rules of a pool

        who = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        who = f"uid-{os.geteuid()}"
    except ImportError:  # Windows
        who = os.environ.get("USERNAME", "?")
    host = os.uname().nodename if hasattr(os, "uname") else "?"
    return shown(f"{who}@{host}".replace(" ", "_"), NAME_SHOWN)
