"""``python -m bufferlab`` is ``bufferlab``."""

import sys

from bufferlab.experiments.cli import main

if __name__ == "__main__":
    sys.exit(main())
