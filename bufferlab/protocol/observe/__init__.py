"""What follows from the records of a run: rows, pool integrals, deadlocks, violations of invariants."""
