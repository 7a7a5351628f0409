"""What users run: configuration, run directories, sweeps, plots and the command line."""
