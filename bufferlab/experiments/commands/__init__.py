"""The commands of ``bufferlab``: every module here is one of them, and the folders hold the work that only they do.

A command is found by the name of its file (``bench_link.py`` is ``bufferlab bench-link``); nothing else lists it. Its
module reads the command line, calls what does the work, and prints what came of it; whatever is slow to import waits
inside its function, since ``--help`` imports every module here.
"""
