"""The embedding-transfer protocol as plain objects: inputs go in, actions come out, and nothing here does I/O.

Both drivers, the simulator in ``sim`` and the Mooncake backend in ``real``, run exactly this code. Nothing here
reads a clock, sleeps, draws a random number or opens a socket; ``now`` is always an argument.

Read in this order: ``status`` (the rules), ``messages`` (what crosses the wire), ``chunks`` (what one write carries),
``encode`` and ``language`` (the two rank cores), ``disciplines`` and ``sizing`` (the research variables).
"""

from bufferlab.protocol import compiled

compiled.install()
