"""What the commands `flair-jax data ...` share: names of tars, an option, and how counts are printed."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterable, Mapping

from flair_jax.commands.parser import positive
from flair_jax.data.damage import is_harmless
from flair_jax.errors import printable

TARS = (
    "tars as img2dataset writes them: a path or URL (gs://...) with ranges {0000..0575} or wildcards; several joined "
    "by ::"
)

# Names of what is left out.
_MOST_PRINTED = 1000


def print_names(names: Iterable[str], total: int, advice: str = "") -> None:
    """Prints the names of what is left out, as many as anyone would read."""
    shown = list(itertools.islice(names, _MOST_PRINTED))
    for name in shown:
        print(name, file=sys.stderr)
    if total > len(shown):
        print(f"... and {total - len(shown):,} more{f'; {advice}' if advice else ''}", file=sys.stderr)


def print_left_out(reasons: Mapping[str, int]) -> None:
    """Prints counts by reason; harmless omissions are listed separately."""
    passed_over = {reason: count for reason, count in reasons.items() if is_harmless(reason)}
    if passed_over:
        _print_reasons("passed over", passed_over)
    _print_reasons("left out", {reason: count for reason, count in reasons.items() if not is_harmless(reason)})


def print_count(title: str, count: int) -> None:
    """Prints a line of a title and a number."""
    print(f"{title:<34}{count:>12,}")


def _print_reasons(title: str, reasons: Mapping[str, int]) -> None:
    """A line with the total, and one for each reason."""
    print_count(title, sum(reasons.values()))
    for reason, count in reasons.items():
        print(f"  {printable(reason)}: {count:,}")


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Adds the option for how many processes read."""
    parser.add_argument(
        "--processes",
        metavar="N",
        type=positive,
        default=0,
        help="how many processes of this machine read at once (default: one a core)",
    )
