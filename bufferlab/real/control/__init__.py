"""What the processes of a run say to each other, and how they find and watch each other."""
