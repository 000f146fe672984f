"""What is wrong with a pool, and what keeps its slots though its build is gone."""
