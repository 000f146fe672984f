"""What is wrong with a pool, and what keeps a slot although its build is gone."""
