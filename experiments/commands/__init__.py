"""What a command does beyond reading its arguments."""
