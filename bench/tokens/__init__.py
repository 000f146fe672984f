"""CPU tokens: whether they bound the jobs of all builds together, and what that costs: see `__main__`."""
