"""What ``bufferlab check`` does: searches of every interleaving, deadlocks on a grid, random faults, replays."""
