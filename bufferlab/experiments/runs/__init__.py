"""One configuration, simulated or measured, into a run directory."""
