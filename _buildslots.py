"""Where both commands start. It sees to it that the modules they load are theirs, whatever PYTHONPATH says.

Python puts the directories of PYTHONPATH in front of its own library and of what is installed. They are there
for some other program, and a file `fcntl.py` or `platformdirs.py` in one of them would be loaded in place of
what we mean: no build would start. The script's own directory, perhaps somebody's `~/bin`, stands in front as
well. Here all of that goes to the end, where it is still found in case this package is installed there.

This is not in the package `buildslots`, because PYTHONPATH may have one of that name. Nothing may be imported
here before the order is right, not even `__future__`. Out of reach is what Python loads before any script:
the modules of its own start, and all of it where PYTHONHOME is another Python's. Commands inherit both
variables unchanged.
"""

import os  # loaded already, as are sys and _signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
else:
    import _signal


def slot_run() -> None:
    """Run `slot-run`; does not return."""
    # Until `run` says what a signal does, Ctrl-C just ends this: nothing has been taken yet. Python would
    # show where it was interrupted. What it does before this line is out of our reach.
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    _put_our_own_first()
    import gc  # noqa: PLC0415

    # What is loaded now stays, and to look through it for garbage takes 0.3 ms. A wait enables that again.
    gc.disable()
    from buildslots.run.main import main  # noqa: PLC0415

    main()


def views() -> int:
    """Run `buildslots`; the exit status."""
    _put_our_own_first()
    from buildslots.view.main import main  # noqa: PLC0415

    return main()


def _put_our_own_first() -> None:
    """Move what stands in front of Python's own library in `sys.path` to the end.

    The library begins with a zip file, which need not exist. If PYTHONPATH names directories of the library
    itself, Python has them in front of that, once: they stay in front.
    """
    library = os.path.dirname(os.__file__)
    zipped = f"python{sys.version_info[0]}{sys.version_info[1]}.zip"
    for number, directory in enumerate(sys.path):
        if os.path.basename(directory) == zipped:
            before = sys.path[:number]
            ours = [path for path in before if path in (library, os.path.join(library, "lib-dynload"))]
            sys.path[:] = ours + sys.path[number:] + [path for path in before if path not in ours]
            return
