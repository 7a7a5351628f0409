"""What several commands share: how they register, the options that mean the same everywhere, what they print."""
