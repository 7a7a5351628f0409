"""One self-contained page about runs, sweeps, validations and tunings: reads their files, and runs nothing."""
