"""Runs timed side by side, and the table that says how they compare."""

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter


def interleaved(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """The seconds that each run took in each round, after one untimed round.

    The runs take turns, each round begun by another one: whatever else the machine does hits all of them.
    """
    names = list(runs)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for run in runs.values():
        run()
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = perf_counter()
            runs[name]()
            seconds[name].append(perf_counter() - start)
    return seconds


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A Markdown table."""
    for row in (header, ["---"] * len(header), *rows):
        print(f"| {' | '.join(row)} |")
    print(flush=True)
