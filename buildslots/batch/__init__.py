"""Batches: many tasks with one plan, bounded, retried, verified, staged, on top of the machine's slots.

plan      the tasks, read and checked: `task` has their keys
runner    what starts a task and what stops everything; `life` is one task, `jobs` whose turn it is
stages    directories that take the places of others: `staging` is one, `recovery` what a killed batch left
records   what is kept of a run: `events`, and a log for each task (`output`)
progress  what people see

`Batch` and `run_batch` are for Python code, `buildslots batch` is in `view`.
"""
