"""The settings of a run. What is wrong with them is said in one sentence before anything runs."""
