"""What ``bufferlab completion`` does: scripts for shells, and what a line that is not finished may go on with."""
