"""`buildslots`: the command that shows pools to people and programs."""
