"""Make tables and figures from the committed results; nothing is run.

    python -m benchmarks.tables all
    python -m benchmarks.tables t6 gate
    python -m benchmarks.tables all --results my/results

Reads runs.csv, gate.csv, new_row.csv, epochs.csv, tsne.csv, speed.csv and profiles.csv in benchmarks/results (and, to
tell which runs of a plan are missing, the tuning.csv of the checkout, whatever --results says); writes tables/NAME.md,
and figures/NAME.png and .svg for figures, beside them, and prints the Markdown. The same rows give the same bytes.
Where rows are missing, the page names the command that makes them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.runs import RESULTS
from benchmarks.tables import TABLES
from benchmarks.tables.page import write


def main() -> None:
    """Make what was asked for."""
    names = "\n".join(f"  {table.name:12s} {table.title}" for table in TABLES.values())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tables",
        description=__doc__,
        epilog=f"names:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="+", metavar="NAME", choices=("all", *TABLES), help="one of those below, or all")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV files (default: %(default)s)")
    options = parser.parse_args()
    wanted = list(TABLES) if "all" in options.names else list(dict.fromkeys(options.names))
    for name in wanted:
        text, paths = write(TABLES[name], options.results)
        print(text)
        for path in paths:
            print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
