"""Abuse: thousands of builds in one pool that are killed, stopped and robbed of it, and a referee.

`python -m bench.abuse --minutes N [--seed S] [--kills M] [--slots K] [--processes P] [--write]`, and
`--priorities SHARE`, `--rule-changes PER_S`, `--pauses PER_S`.

`driver` starts processes (`worker`; `crowd`, many tasks or threads in one; `command` under real `slot-run`s;
`full` on a full disk; `setter`, of the pool's rules) and does things to them; they leave marks (`marks`) of
what they do; `referee`, a process of its own that knows the protocol but does not import buildslots, judges
these (with `order` and `obeyed`) and looks at the pool meanwhile. All that is random comes from the seed;
what comes of it is up to the scheduler as well.
"""
