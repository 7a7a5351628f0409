"""All ranks of a scenario on one virtual clock: requests, messages, writes, iterations, and processes that end."""
