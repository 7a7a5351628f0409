"""What the software costs the processors of a host that all ranks share."""
