"""What ``import bufferlab`` gives: functions that call what the commands call, and results to look at in a notebook.

Nothing is computed here. ``bl.simulate`` writes the very files that ``bufferlab sim`` writes, into a folder that goes
with its result unless it is given one.
"""
