"""`slot-run`: run one command under a build slot.

`main` is the flow from arguments to exit status, `options` the command line, `child` the command's
process, `notice` what is said while it waits. Loaded modules cost every build their time, so
`notice` and the help text load only when they are needed (a test names what may be loaded).
"""
