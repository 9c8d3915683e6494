"""What becomes of a dense model's copies, beside the model trained on, and beside a new one."""

from collections.abc import Callable

from experiments.claimed import recorded
from moe.analysis import paired, upcycling
from moe.analysis.claims import ABOVE, BELOW, Finding, Region, Row, difference
from moe.analysis.upcycling import Beside, Losses

COMMAND = recorded.command_of("upcycling")
KOMATSUZAKI = "Komatsuzaki et al. 2022"
LIEW = "Liew et al. 2025"
UNTUNED = "its rate is that of copies, and was not chosen for it"
AS_SMALL = 0.01  # nats


def rows() -> list[Row]:
    """What papers claim of copies, of their law, and of other ways."""
    runs = upcycling.by_variant(recorded.lines("upcycling_cpu/results.jsonl"))
    grid = list(upcycling.beside(runs))
    return [*_trained_on(grid), _scratch(grid), *_law(runs, grid), *_ways(runs)]


def less(own: Losses, other: Losses) -> Finding:
    """A mean difference of test losses over the seeds of both."""
    return difference(paired.interval([own[s] - other[s] for s in own if s in other]))


def _named(cells: list[Beside], other: Callable[[Beside], Losses]) -> dict[str, Finding]:
    return {
        f"{cell.after / 1e6:.1f}M tokens after {cell.before / 1e6:.1f}M":
            less(cell.copies, other(cell))
        for cell in cells
    }  # fmt: skip


def _for(grid, times):
    """The cells that took so many times the parent's FLOPs."""
    return [cell for cell in grid if abs(cell.spent / times - 1) < 0.05]


def _longest(grid):
    return [cell for cell in grid if cell.after == max(one.after for one in grid)]


def _trained_on(grid):
    beat = "copies beat their parent trained on for as many FLOPs"
    yield Row(
        f"{beat}, after half of the parent's FLOPs (ours: 0.78)", KOMATSUZAKI, BELOW,
        _named(_for(grid, 0.78), lambda cell: cell.continued),
        "as there after the longer parents; what counts here is how many tokens follow, since"
        " copies have to part from each other first", COMMAND,
    )  # fmt: skip
    yield Row(
        f"{beat}, for long enough", KOMATSUZAKI, BELOW,
        _named(_longest(grid), lambda cell: cell.continued), "as there", COMMAND,
    )  # fmt: skip


def _scratch(grid):
    return Row(
        "copies beat the same experts from scratch, after as many FLOPs as the parent took"
        " (ours: 1.55 times)", KOMATSUZAKI, BELOW,
        _named(_for(grid, 1.55), lambda cell: cell.scratch),
        "as there; the parent's own FLOPs are not counted, as there", COMMAND,
    )  # fmt: skip


def _law(runs, grid):
    found = [upcycling.interaction(losses) for losses in upcycling.of_seeds(runs)]
    yield Row(
        "the better trained a parent is, the less tokens after it help (an interaction)", LIEW,
        ABOVE, difference(paired.interval(found), "of log loss"),
        "as there, on a grid of four lengths by four; without a floor, which none of the seeds"
        " asks for", COMMAND,
    )  # fmt: skip
    yield Row(
        "beyond a budget experts from scratch with as many FLOPs in all are better", LIEW, ABOVE,
        _named(_longest(grid), lambda cell: cell.in_all),
        "the longer the parent, the more so; only beside the longest it is sure", COMMAND,
    )  # fmt: skip


def _ways(runs):
    said = {
        "redrawn": (
            "copies of which half is drawn anew beat whole ones (in the long run)",
            "Nakamura et al. 2025 (Drop-Upcycling)", BELOW,
            f"what is drawn anew has to be learned again, and the gap is still closing; {UNTUNED}",
        ),
        "moments": (
            f"Adam's moments of the parent gain nothing for language models (by {AS_SMALL})",
            KOMATSUZAKI, Region(low=-AS_SMALL),
            "no difference that three seeds could tell",
        ),
        "granular": (
            "twice as many experts of half the width beat whole copies",
            "He et al. 2024", BELOW,
            f"it begins as the same function, and finer choices bring nothing here; {UNTUNED}",
        ),
    }  # fmt: skip
    copies = runs["copies_2000"]
    for way, (words, source, holds, why) in said.items():
        ours = {
            f"{_tokens(own) / 1e6:.1f}M tokens after": less(
                upcycling.losses_of(own), upcycling.losses_of(copies[steps])
            )
            for steps, own in runs[f"{way}_2000"].items()
        }
        yield Row(words, source, holds, ours, why, COMMAND)


def _tokens(seeds):
    one = next(iter(seeds.values()))
    return one["steps"] * one["tokens_per_step"]
