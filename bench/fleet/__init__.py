"""Builds of several hosts on one pool of a server, through all that can happen to them (Linux).

`driver` lets builds of slot-run come and go, kills, stops and cuts them off, and does harm to the server.
`referee` judges afterwards, by what the builds themselves have noted in a file, and by what was done to them.
It knows nothing of the server but what that answered to `buildslots status` meanwhile.
"""
