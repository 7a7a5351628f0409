"""What ``--dry-run`` prints: what a command would run, where that would go, and about how long it would take."""
