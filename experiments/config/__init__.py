"""What a run may be told, checked in one sentence."""
