"""Workload 1, a toolchain install: `manager` is the program, `server` what it downloads from.

The promises are checked by `bounded`, `whole`, `limits` and `people`.
"""
