"""`buildslots`: the command that shows pools to people and programs.

`main` reads the command line and loads one module, which has the name of the subcommand and a function `run`.

now     who holds slots and who waits, at this moment: `status`, once or with `--watch`
past    what the journal tells of builds that are over: `history`, `trace`, `report`
health  what is wrong with a pool, and what keeps its slots: `doctor`, `release`

What rooms share stands here: `output` (files that a view writes), `table` (plain text), `pools` (names).
The rooms do not import each other.
"""
