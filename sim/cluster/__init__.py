"""All ranks of a scenario on one virtual clock: requests, messages, writes, turns, and processes that end."""
