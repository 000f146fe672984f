"""`slot-run`: run one command under a build slot.

`main` is the flow from arguments to exit status, `options` the command line, `child` the process of the
command, `notice` what slot-run says while it waits, `help` the text of --help. Each module that is loaded
costs every build some time. So `notice` and `help` are loaded only when they are needed, and a test names the
modules that may be loaded for every build.
"""
