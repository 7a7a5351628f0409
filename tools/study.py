"""Repeats a study of docs/studies: runs it, draws its figure and writes its table and its sentences.

    python tools/study.py NAME...|all [--requests N] [--replications N] [--seed N] [--jobs N] [--runs DIR] [--out DIR]

Every study has a folder with its configurations, ``settings.toml`` (what is varied), ``table.csv``, ``figure.png``
and a page. Sweeps go to --runs (default: runs/studies) and can be interrupted; the same command goes on. --out is where
tables, figures and pages are written (default: docs/studies, where they are replaced); with another number of requests
or replications, or another seed, than the study has, it must be another folder.

Exit status: 0, 1 if a run breaks, 2 for bad input, 130 when interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bufferlab.experiments.errors import RunFailedError, UserError  # noqa: E402 - from this checkout
from bufferlab.experiments.figures.pages import MarkedPage, check_figure  # noqa: E402
from bufferlab.experiments.figures.style import save  # noqa: E402
from bufferlab.experiments.files import disk_errors, write_text  # noqa: E402
from tools.studies import announce, best_default, block_size, policies, rank_skew, regime_change  # noqa: E402
from tools.studies.common import Outcome, Scale, Study, markdown  # noqa: E402

STUDIES: dict[str, Study] = {
    one.STUDY.name: one.STUDY for one in (best_default, policies, announce, block_size, rank_skew, regime_change)
}
FOLDER = ROOT / "docs" / "studies"
MARKS = ("<!-- {}: begin -->\n", "\n<!-- {}: end -->")
"""Around the answer and the table of a page, and around the answers on the page of them all."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, run the studies, write what they come to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("names", nargs="+", metavar="NAME", help=f"all, or of {', '.join(STUDIES)}")
    parser.add_argument("--requests", type=_count, help="of one replication")
    parser.add_argument("--replications", type=_count)
    parser.add_argument("--jobs", type=_count, help="runs at once")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--runs", type=Path, default=Path("runs") / "studies", help="where runs are kept")
    parser.add_argument("--out", type=Path, default=FOLDER, help="where tables, figures and pages are written")
    options = parser.parse_args(arguments)
    scale = Scale(options.requests, options.replications, options.jobs, options.seed)
    try:
        for study in _chosen(options.names):
            if scale.settings() and options.out.resolve() == FOLDER:
                raise UserError(
                    f"--out is {str(options.out)!r}, it must be another folder for a study of another scale"
                )
            out = options.out / study.name
            check_figure(out / "figure.png", "--out")
            outcome = study.run(FOLDER / study.name, options.runs / study.name, scale)
            _write(study, outcome, out, options.out / "README.md")
            print(f"{study.name}: {outcome.answer}")
    except (UserError, RunFailedError) as error:
        print(f"study: {error}", file=sys.stderr)
        return 1 if isinstance(error, RunFailedError) else 2
    except KeyboardInterrupt:
        print("study: interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 0


def _chosen(names: Sequence[str]) -> list[Study]:
    if "all" in names:
        return list(STUDIES.values())
    for name in names:
        if name not in STUDIES:
            raise UserError(f"NAME is {name!r}, it must be all or of {', '.join(STUDIES)}")
    return [STUDIES[name] for name in names]


def _write(study: Study, outcome: Outcome, out: Path, index: Path) -> None:
    import pandas as pd

    out.mkdir(parents=True, exist_ok=True)
    save(outcome.figure, out / "figure.png")
    with disk_errors(out / "table.csv"):
        write_text(out / "table.csv", pd.DataFrame(outcome.rows).to_csv(index=False, float_format="%.6g"))
    _put(out / "README.md", "answer", outcome.answer)
    _put(out / "README.md", "table", f"\n{markdown(outcome.rows, outcome.columns)}\n")
    _put(index, study.name, outcome.answer)


def _put(path: Path, mark: str, text: str) -> None:
    """Replace what stands between the marks; a page that has none gets them at its end."""
    begin, end = (one.format(mark) for one in MARKS)
    there = path.read_text(encoding="utf-8") if path.exists() else ""
    if begin not in there:
        with disk_errors(path):
            write_text(path, f"{there}{begin}{end}\n")
    MarkedPage(path, begin, end).put(text)


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"is {text!r}, it must be a whole number of at least 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
