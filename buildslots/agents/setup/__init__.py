"""Setting up coding agents: their files, and what stands in them of buildslots.

jsonc    JSON with comments, changed in place
hooks    the entries of ours in an agent's JSON
plugin   the file for opencode
place    files of the user's: found, read within bounds, replaced, kept as they were
program  which `buildslots` to name in them
known    the agents
shell    the line in a shell's startup file
plan     what would change, and whether an agent is set up
"""
