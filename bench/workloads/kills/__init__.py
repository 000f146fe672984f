"""Batches that are killed again and again, and that go on with --resume; and what becomes of their tasks.

`python -m bench.workloads.kills [--kills N] [--seed S] [--minutes M]`. Linux.

driver    runs three batches (`plans`) at once in one pool, kills them at any moment, and takes notes
task      what their tasks run: each tells a ledger of its start and of its end, and fills its stage slowly
referee   a process of its own that looks at the destinations all the time (`look`), reads the ledger, the
          driver's notes and the records of the batches (`story`), and judges (`rules`)

The referee, and what it imports, does not import buildslots. It trusts the file system, and what the tasks
themselves have written. All that is random comes from the seed; what comes of it is up to the scheduler too.
"""
