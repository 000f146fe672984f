"""Workload 2, an audit of tools, and what follows from it: installs, upgrades, settings.

`auditor` asks tools for their versions and `registries` for the latest ones; it keeps a `snapshot`, which
`render` shows. `bulk` installs packages that `wheels` makes, `upgrader` brings newer ones, by a policy of
`settings`. The promises are checked by `audited`, `kept`, `installed`, `upgraded` and `settled`.
"""
