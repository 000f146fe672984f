"""Eight agents that build at once: see `__main__`."""
