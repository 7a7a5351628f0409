"""What the software of a run costs, from the accounts and the events of measured runs."""
