"""Makes the modules of this folder importable by its tests: queue_formulas, queue_drivers, queue_cases and so on."""

import sys
from pathlib import Path

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.append(HERE)
