"""How many experts? What laws and papers say, beside the grid."""

import math

from experiments.claimed import recorded
from moe.analysis import cells, law_tables, paired
from moe.analysis.claims import ABOVE, BELOW, Finding, Region, Row, difference

COMMAND = recorded.command_of("laws")
FORETOLD = f"{recorded.command_of('laws', 'laws.py:foretold')} --foretell"
CLARK = "Clark et al. 2022"
KRAJEWSKI = "Krajewski et al. 2024"
LUDZIEJEWSKI = "Ludziejewski et al. 2025"
ANSWERS = "laws_cpu/answers.md"
LONGEST = {32: 6000, 64: 6000, 128: 3000}  # width -> steps
WITHIN = Region(0.0, 1.0)  # of the interval of a law and a seed
OURS = "a test of ours"
TAKEN_UP = "kaplan"
FIRST = ("l_e1", "l_e16")  # foretold by the laws that were there
DOUBLINGS = ((64, 16), (256, 64))
FINE = ("s_e32_k2", "s_e64_k4", "s_e128_k8", "s_e256_k16")
PLAIN = "s_e16"  # as many parameters, top-1


def rows() -> list[Row]:
    """What papers claim of the number of experts, of sizes, of text, and of laws themselves."""
    grid = cells.read(recorded.RESULTS / "laws_cpu" / "cells.csv")
    gains = law_tables.gains(cells.plain(cells.once(grid)))
    return [*_sizes(grid, gains), *_numbers(grid), _again(grid), *_foretold()]


def _sizes(grid, gains):
    small = 32
    large = 128
    yield Row(
        "experts gain less the larger a model is, after as many tokens", CLARK, ABOVE,
        {
            f"{number} experts, width {small} less {large}": _between(
                gains[small, number, 3000], gains[large, number, 3000]
            )
            for number in (4, 16, 64)
        },
        "as there with 16 and 64, at 6.1M tokens; of 4 the gains are too small to tell", COMMAND,
    )  # fmt: skip
    found = {
        f"width {width}, {steps:,} steps": difference(gains[width, 16, steps])
        for width, steps in LONGEST.items()
    }
    yield Row(
        "16 experts beat dense at every size, if trained for long enough", LUDZIEJEWSKI, ABOVE,
        found | {"width 192, 11,600 steps, one seed": _largest(grid)},
        "as there; the larger the model, the longer it takes: at 3.1M tokens neither of the two"
        " larger sizes gains. Of one seed the spread is that of the grid's", COMMAND,
    )  # fmt: skip


def _between(one, other):
    """The difference of two differences, as if they were independent."""
    return difference(paired.Interval(one.mean - other.mean, math.hypot(one.half, other.half)))


def _largest(grid):
    losses = {row["cell"]: row["test_nll"] for row in _after()}
    half = 1.96 * math.sqrt(2) * cells.noise(grid)
    return difference(paired.Interval(losses["l_e1"] - losses["l_e16"], half))


def _after():
    return cells.read(recorded.RESULTS / "laws_foretold" / "cells.csv")


def _numbers(grid):
    yield Row(
        "the more experts, the lower the loss (theirs: to 512)", CLARK, BELOW,
        {f"{n} less {m}": _less(grid, f"s_e{n}", f"s_e{m}", 6000) for n, m in DOUBLINGS},
        "not at 12.3M tokens, in the one size that has them all: 64 are level with 16, 256 are"
        " behind, so that a peak between 64 and 256, as the sources have it, is not seen", COMMAND,
    )  # fmt: skip
    best = recorded.tables(ANSWERS, "The best number", parameters="any")
    largest = {row["budget of"]: row for row in best}  # the last of each axis
    yield Row(
        "4 to 16 experts are best", "the sources", Region(low=3.9, high=16.1),
        {f"at equal {axis}": _best(row) for axis, row in largest.items()},
        "the grid's largest budget, by the law that fits best, among 1, 4, 16 and 64; the interval"
        " is of the law's coefficients, not of its form", COMMAND,
    )  # fmt: skip
    yield Row(
        "experts of a K-th of the width, K a token, beat whole ones", KRAJEWSKI, BELOW,
        {name[2:]: _less(grid, name, PLAIN, 3000) for name in FINE},
        "as there; theirs pay for a finer router, ours are as wide in sum and executed FLOPs are"
        " not matched here", COMMAND,
    )  # fmt: skip


def _best(row):
    number, low, high = row["best E, 95%"].replace(" to ", ", ").split(", ")
    return Finding(f"{number} ({low} to {high})", float(low), float(high))


def _less(grid, one, other, steps):
    """The loss of one cell less another's; the spread of seeds is that of all cells so long."""
    losses: dict[str, dict[float, float]] = {}
    for row in grid:
        if row["steps"] == steps and row["seed"] < 2:
            losses.setdefault(row["cell"], {})[row["seed"]] = row["test_nll"]
    both = {name: list(by_seed.values()) for name, by_seed in losses.items()}
    mean = sum(a - b for a, b in zip(both[one], both[other], strict=True)) / len(both[one])
    return difference(paired.Interval(mean, paired.seeds_half(both, one, other)))


def _again(grid):
    found = {}
    for times in (1, 2, 4, 8):
        read = [r for r in cells.plain(grid) if r["tokens"] == times * r["unique_tokens"]]
        found[f"read {times} times"] = difference(law_tables.gains(read)[64, 16, 3000])
    return Row(
        "experts help when text is scarce (6.1M tokens, some of them again)", "the sources", ABOVE,
        found,
        "as much while text is read up to four times; of an eighth of it, read eight times, they"
        " learn by heart as dense does, and hardly any of the gain is left", COMMAND,
    )  # fmt: skip


def _foretold():
    found: dict[str, dict[str, Finding]] = {}
    for row in recorded.tables("laws_foretold/after.md", ""):
        if row["cell"] in FIRST or row["law"] == TAKEN_UP:
            found.setdefault(row["law"], {})[row["cell"]] = _place(row)
    first = {name: cells for name, cells in found.items() if name != TAKEN_UP}
    for law, of_cells in first.items():
        yield Row(
            f"{law}'s law, fitted to the grid, foretells runs 7.7 times as long", OURS, WITHIN,
            of_cells,
            "foretold before they were run; it adds what size and tokens lack, while small models"
            " here gain less of more tokens than large ones", FORETOLD,
        )  # fmt: skip
    yield Row(
        "a law with a power, taken up after that, foretells runs 1.9 and 3.9 times as long", OURS,
        WITHIN, {name: one for name, one in found[TAKEN_UP].items() if name not in FIRST},
        "foretold before they were run; with 32 experts, longer beyond the grid, the loss lies at"
        " the edge", FORETOLD,
    )  # fmt: skip


def _place(row):
    """Where in the interval of the law and of a seed the loss came, 0 at its low end."""
    low, high = map(float, row["and of a seed"].split(" to "))
    came = float(row["came"])
    place = (came - low) / (high - low)
    return Finding(f"{came:.3f} of {low:.3f} to {high:.3f}, place {place:.2f}", place, place)
