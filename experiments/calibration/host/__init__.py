"""What the software of a run costs, from the usages and the events of measured runs."""
