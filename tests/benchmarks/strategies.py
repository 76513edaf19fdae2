"""How soon each strategy finds the bugs of the literature's programs, beside what was measured elsewhere.

    python tests/benchmarks/strategies.py                 a table: medians of 20 seeds, at most 2,000 schedules each
    python tests/benchmarks/strategies.py --json          the same as one JSON object, with the references
    python tests/benchmarks/strategies.py --write         write the page docs/explanation/strategies-measured.md
    python tests/benchmarks/strategies.py -p reorder_3 -s pos -s surw     only these

What counts is schedules, not seconds: the figures are the same on every machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
if str(ROOT / "tests") not in sys.path:
    sys.path.append(str(ROOT / "tests"))

from explore.catalogue import CLASSICS  # noqa: E402
from explore.programs import TestProgram  # noqa: E402

from kemu.explore import STRATEGIES, Budget, explore, strategy_from_name  # noqa: E402

SEEDS: Final = 20
LIMIT: Final = 2_000
PAGE: Final = ROOT / "docs" / "explanation" / "strategies-measured.md"

MEASURED: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "random": ("random", {}),
    "pct3": ("pct", {}),
    "pct10": ("pct", {"depth": 10}),
    "pos": ("pos", {}),
    "urw": ("urw", {}),
    "surw": ("surw", {}),
    "sticky": ("sticky", {}),
    "delay": ("delay", {}),
    "alternating": ("alternating", {}),
    "portfolio": ("portfolio", {}),
}
"""What is measured, as the name and the options of a strategy. One that kemu does not have is left out."""

COMPARED: Final = ("random", "pct3", "pct10", "pos", "urw", "surw")
"""The columns of the references."""

# An independent implementation of the same samplers on the same programs, 20 seeds each, at most 2,000 schedules: mean
# and median. Of the staggered programs only means are known. "never" is no bug within the limit in most trials.
PROTOTYPE: Final = """
    account              4/2       3/2       2/2       3/3       2/1       4/2
    bluetooth_driver     18/12     12/10     12/8      16/10     39/28     11/9
    carter01             2/2       3/1       2/2       2/1       1/1       2/1
    deadlock01           2/2       3/2       2/2       2/2       3/2       2/2
    din_phil2            2/2       3/2       2/2       2/2       3/2       2/2
    din_phil3            4/3       10/4      2/1       3/2       3/2       4/3
    din_phil5            7/5       212/121   17/11     16/16     7/4       16/12
    din_phil7            16/10     never     158/127   46/54     5/4       49/44
    lazy01               3/2       3/2       3/2       3/2       3/2       2/2
    phase01              1/1       1/1       1/1       1/1       1/1       1/1
    sync01               1/1       1/1       1/1       1/1       1/1       1/1
    stringbuffer         8/6       12/8      15/8      6/4       4/3       7/6
    reorder_3            22/11     9/8       13/10     6/2       8/7       7/7
    reorder_4            20/12     18/14     12/6      13/5      9/8       5/4
    reorder_5            36/18     21/13     12/12     17/9      11/9      6/5
    reorder_10           62/39     113/74    45/28     37/30     18/14     20/19
    reorder_20           121/93    374/220   127/93    64/58     32/28     23/18
    stack                2/1       4/2       2/1       2/1       1/1       2/1
    token_ring           7/5       4/3       5/4       8/6       4/3       9/5
    twostage             29/15     13/8      10/7      9/6       41/26     14/10
    twostage_11          93/80     479/479   89/88     45/34     94/72     45/30
    wronglock_3          3/2       8/6       3/2       3/3       5/4       4/3
    wronglock            2/2       11/10     4/2       2/1       4/3       3/3
"""
STAGGERED: Final = """
    bluetooth_driver+staggered  26    12    14    30    32    20
    reorder_3+staggered         45    22     9    16     9     6
    reorder_5+staggered        221    88    34    53    16     9
    reorder_10+staggered     never   799   397  1570    70    19
    reorder_20+staggered     never  2840  3007 never  1143    42
    twostage+staggered          20     7     5     5    19     8
    twostage_20+staggered    never   724   207   189   746    59
"""
# Published: means of 20 trials, at most 10,000 schedules, of the original C programs, whose threads main creates one by
# one (the raw data of Zhao, Wolff, Mathur and Roychoudhury, "Selectively uniform concurrency testing", ASPLOS 2025).
PUBLISHED: Final = """
    account                     18     4     4     4     3     6
    bluetooth_driver           215   112    83    36  1494    70
    carter01                     1     5     3     2     -     -
    circular_buffer              4     9     5     2    14     3
    deadlock01                   3    13     7     4     3     2
    lazy01                      21     5     5     5     4     2
    queue                        1     3     2     1     2     2
    reorder_3                never   185   148    86    24     7
    reorder_4                never   554   362   533    22     7
    reorder_5                never   647  1094  2169    27    10
    reorder_10               never  3225  4462 never    74    17
    reorder_20               never  3005  3297 never    10     6
    stack                      176     3     3     2   986     5
    token_ring                  13     8     8     9     9     8
    twostage                   464    13     9    15     9     8
    twostage_20              never   159   101   156    24     6
    wronglock                   36    51    20    10     4     7
    wronglock_3                 36    58    14    11     5     9
    stringbuffer              2243   281    26    23   834     8
    bounded_buffer               7    20     6     5     7     9
    work_steal_queue             -    48    16    12    13     6
    CVE-2009-3547                5     4     3     3     5     4
    CVE-2011-2183                2     5     3     2     3     3
    CVE-2013-1792              364    95    50    39   141    15
    CVE-2015-7550                1     9     4     6     2     6
    CVE-2016-1972              299  4902  2712    34    34    11
    CVE-2016-1973              308    10     6     5    17     5
    CVE-2016-7911                3    20    15    11     6     8
    CVE-2016-9806             2209     7     4     7     4     3
    CVE-2017-15265           never never never never never never
    CVE-2017-6346                3    24    20    10     2    15
"""

Row = dict[str, float | None]
"""Schedules to the first bug, by strategy; None: not found."""


def parsed(table: str, at: int = -1) -> dict[str, Row]:
    """The rows of one of the tables above; of several figures in a cell the one at *at*."""
    rows: dict[str, Row] = {}
    for line in table.strip().splitlines():
        name, *values = line.split()
        cells = zip(COMPARED, (value.split("/")[at] for value in values), strict=True)
        rows[name] = {key: None if value == "never" else float(value) for key, value in cells if value != "-"}
    return rows


REFERENCES: Final = {
    "prototype": parsed(PROTOTYPE),
    "prototype_mean": parsed(PROTOTYPE, 0),
    "staggered_mean": parsed(STAGGERED),
    "published_mean": parsed(PUBLISHED),
}


def first_bug(program: TestProgram, column: str, seed: int, limit: int = LIMIT) -> int | None:
    """Schedules until the strategy of *column* finds the bug of *program*."""
    name, options = MEASURED[column]
    exploration = explore(program, strategy_from_name(name, seed, **options), Budget(schedules=limit))
    return exploration.schedules if exploration.findings else None


def median_first_bug(program: TestProgram, column: str, *, seeds: int = SEEDS, limit: int = LIMIT) -> float | None:
    """The median over *seeds* seeds; None if most do not find it."""
    counts = [first_bug(program, column, seed, limit) or limit + 1 for seed in range(seeds)]
    middle = median(counts)
    return middle if middle <= limit else None


def columns() -> list[str]:
    """What of `MEASURED` this kemu has."""
    return [column for column, (name, _) in MEASURED.items() if name in STRATEGIES]


def measure(programs: Iterable[str], strategies: Sequence[str], seeds: int) -> dict[str, Row]:
    """The medians, and a line on stderr for each program that is done."""
    rows: dict[str, Row] = {}
    for name in programs:
        program = CLASSICS[name].make()
        rows[name] = {column: median_first_bug(program, column, seeds=seeds) for column in strategies}
        print(line(name, [rows[name][column] for column in strategies]), file=sys.stderr, flush=True)
    return rows


def shown(value: float | None) -> str:
    """A figure of a table."""
    return "never" if value is None else f"{value:g}"


def line(name: str, values: Sequence[float | None]) -> str:
    return f"{name:28}" + "".join(f"{shown(value):>8}" for value in values)


def page(rows: dict[str, Row], strategies: Sequence[str]) -> str:
    """The page of the documentation."""
    others = [column for column in strategies if column != "portfolio"]
    return "\n".join(
        [
            *INTRODUCTION,
            "",
            "## The default",
            "",
            *wrapped(verdict(rows)),
            "",
            *table(
                ["program", "depth", "`portfolio`", "published POS or SURW"],
                [
                    [name, str(CLASSICS[name].depth), cell(row, "portfolio"), best_published(name)]
                    for name, row in rows.items()
                ],
            ),
            "",
            "## Each strategy",
            "",
            *table(
                ["program", *(f"`{column}`" for column in others)],
                [[name, *(cell(row, column) for column in others)] for name, row in rows.items()],
            ),
            "",
            "## Measured elsewhere",
            "",
            *ELSEWHERE,
            "",
            *table(
                ["program", *(f"`{column}`" for column in COMPARED)],
                [[name, *cells] for name in rows if (cells := elsewhere(name))],
            ),
            "",
            "## The bugs",
            "",
            *bugs(rows),
            "",
        ]
    )


INTRODUCTION: Final = [
    "# The strategies, measured",
    "",
    "Schedules to the first bug, the median of 20 seeds with at most 2,000 schedules each. `-` is no figure, *never*",
    "that most seeds did not find it.",
    "",
    "The programs are those of SCTBench (Thomson, Donaldson and Betts, *Concurrency testing using controlled",
    "schedulers*, TOPC 2016) and reductions of races that the Linux kernel and Firefox have had, re-expressed for",
    "kemu's runtime in `tests/explore`; in those with *+staggered* main creates the threads one by one. Depth is the",
    "number of order constraints that make the bug. `python tests/benchmarks/strategies.py --write` measures again",
    "and writes this page. What each strategy does: [Strategies](../reference/strategies.md).",
]

ELSEWHERE: Final = [
    "First an independent implementation of the same samplers on the same programs (medians of 20 seeds; means where",
    "the threads are created one by one), then what the authors of SURW published for the original C programs (means",
    "of 20 trials, at most 10,000 schedules; Zhao, Wolff, Mathur and Roychoudhury, *Selectively uniform concurrency",
    "testing*, ASPLOS 2025). There main creates the threads one by one, and a program has many more scheduling",
    "points: those figures say which strategy is better where, not how many schedules kemu should need.",
]

SAMPLERS: Final = ("pos", "surw")
"""The better of these is what the default is held against."""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table, figures to the right."""
    rule = ["---", *("---:" for _ in header[1:])]
    return [f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)]


def cell(row: Row, column: str) -> str:
    """A figure of kemu's."""
    return shown(row[column]) if column in row else "-"


def published(name: str) -> dict[str, float | None]:
    """What was published of the samplers that the default is held against."""
    row = REFERENCES["published_mean"].get(name, {})
    return {column: row[column] for column in SAMPLERS if column in row}


def best_published(name: str) -> str:
    """The better one of them, with its name."""
    figures = published(name)
    if not figures:
        return "-"
    best = min(figures, key=lambda column: LIMIT * 10 if figures[column] is None else figures[column] or 0)
    return shown(figures[best]) if figures[best] is None else f"{shown(figures[best])} ({best.upper()})"


def verdict(rows: dict[str, Row]) -> str:
    """How the default compares."""
    compared = [name for name in rows if published(name) and "portfolio" in rows[name]]
    as_good = 0
    for name in compared:
        found = rows[name]["portfolio"]
        best = min(value if value is not None else float("inf") for value in published(name).values())
        as_good += found is not None and found <= best
    return (
        f"In {as_good} of the {len(compared)} programs for which figures of POS or SURW were published, the default"
        " needs no more schedules than the better of the two did. The published figures are means, and of programs with"
        " more scheduling points: see below."
    )


def wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 118, break_long_words=False, break_on_hyphens=False)


def elsewhere(name: str) -> list[str]:
    """The references for each column; nothing if there are none at all."""
    own = {**REFERENCES["prototype"], **REFERENCES["staggered_mean"]}
    both = [rows.get(name, {}) for rows in (own, REFERENCES["published_mean"])]
    if not any(both):
        return []
    return [", ".join(shown(row[column]) if column in row else "-" for row in both) for column in COMPARED]


def bugs(names: Iterable[str]) -> list[str]:
    """What is wrong with the programs, those with the same bug together."""
    alike: dict[str, list[str]] = {}
    for name in names:
        if not name.endswith(STAGGERED_NAME):
            alike.setdefault(CLASSICS[name].bug, []).append(name)
    lines: list[str] = []
    for bug, programs in alike.items():
        first, *rest = wrapped(f"{', '.join(programs)}: {bug}")
        lines += [f"- {first}", *(f"  {line}" for line in rest)]
    return lines


STAGGERED_NAME: Final = "+staggered"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--write", action="store_true", help="write docs/explanation/strategies-measured.md")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("-p", "--program", action="append", choices=list(CLASSICS), metavar="NAME")
    parser.add_argument("-s", "--strategy", action="append", choices=columns(), metavar="NAME")
    options = parser.parse_args(arguments)
    strategies: list[str] = options.strategy or columns()
    if not options.json:
        print(f"{'':28}" + "".join(f"{column:>8.7}" for column in strategies), file=sys.stderr)
    rows = measure(options.program or CLASSICS, strategies, options.seeds)
    if options.json:
        print(json.dumps({"seeds": options.seeds, "limit": LIMIT, "programs": rows, "references": REFERENCES}))
    if options.write:
        PAGE.write_text(page(rows, strategies), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
