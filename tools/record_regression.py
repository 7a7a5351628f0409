"""Records what the configurations of tests/regression give: `python tools/record_regression.py [NAME…] [--check]`.

Run it after a deliberate change, read what differs, and say in the commit why. Names record those cases alone;
`--check` writes nothing. Exit status: 0, 1 if something differs under --check, 2 for a name that is not there.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "regression")]


def main() -> int:
    """Record, and return the exit status."""
    from bufferlab.experiments.files import write_text

    its: Any = importlib.import_module("regression_set")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="cases; all when none is given")
    parser.add_argument("--check", action="store_true", help="compare only")
    arguments = parser.parse_args()
    known = {case.name: case for case in its.cases()}
    unknown = [name for name in arguments.names if name not in known]
    if unknown:
        print(f"there is no case {', '.join(unknown)}; tests/regression/cases.toml lists them", file=sys.stderr)
        return 2
    before = its.recorded() if its.RECORDED.is_file() else {}
    after = {name: told for name, told in before.items() if name in known}
    changed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.names or known:
            found = its.outcome_of(known[name], Path(folder) / name)
            told = its.differences(found, before[name]) if name in before else ["it is new"]
            changed += bool(told)
            print("\n  ".join([f"{name}: {'differs' if told else 'as before'}", *told]))
            after[name] = found
    if arguments.check:
        return 1 if changed else 0
    ordered = {name: after[name] for name in known if name in after}
    write_text(its.RECORDED, json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")
    print(f"{changed} of {len(arguments.names or known)} cases differ from before; written to {its.RECORDED.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
