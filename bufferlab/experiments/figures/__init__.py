"""Pictures, timelines and text of results."""
