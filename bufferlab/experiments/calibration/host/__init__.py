"""What the software of a run costs, from the CPU usage and the events of measured runs."""
