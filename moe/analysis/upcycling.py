"""What parents become, beside them trained on, and beside the same experts from scratch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import optimize

from moe.analysis import markdown, paired, plots

if TYPE_CHECKING:
    from matplotlib import figure

Losses = Mapping[int, float]  # by seed, nats
Steps = Mapping[int, dict[int, dict]]  # of a variant: steps -> seed -> record
Cells = Mapping[tuple[int, int], Losses]  # (tokens of the parent, tokens after it) -> losses
COPIES = "copies"
CONTINUED = "continued"
SCRATCH = "scratch_0"


def by_variant(records: Iterable[dict]) -> dict[str, Steps]:
    """The records by variant, steps and seed."""
    found: dict[str, dict[int, dict[int, dict]]] = {}
    for one in records:
        seeds = found.setdefault(one["variant"], {}).setdefault(one["steps"], {})
        seeds[one["seed"]] = one
    return {name: dict(sorted(steps.items())) for name, steps in found.items()}


def table(records: Sequence[dict]) -> str:
    """What copies gain over both baselines, other ways beside them, and the law's interaction.

    Args:
      records: the lines of results.jsonl of `experiments.upcycling`; a variant is called
        <way>_<steps of its parent>.
    """
    runs = by_variant(records)
    if SCRATCH not in runs:
        return _pilots(runs)
    head = ("parent", "after it", "nats", "Δ parent trained on", "Δ scratch", "Δ scratch in all")
    rows = [_row(cell) for cell in beside(runs)]
    parts = [f"{markdown.table(head, rows)}\n\n{LEGEND}"]
    ways = [row for name in runs for row in _ways(name, runs)]
    if ways:
        parts.append(markdown.table(("way", "parent", "after it", "nats", "Δ copies"), ways))
    return "\n\n".join((*parts, _interaction(runs)))


LEGEND = (
    "Millions of tokens; test loss after both, and its paired differences from: the dense parent"
    " trained on for as many FLOPs as the experts; the same experts from scratch for as many tokens"
    "; and those for as many FLOPs as parent and experts together, between lengths by a line in the"
    " logarithm of FLOPs. Negative: copies are better. 95% intervals over seeds. -: no run."
)


def _pilots(runs):
    """Several learning rates of each variant."""
    rows = [(r["variant"], str(r["learning_rate"]), f"{_validation(r):.4f}") for r in _each(runs)]
    return markdown.table(("run", "learning rate", "validation nats"), rows)


def _validation(record):
    return record["curve_nll"][-1]


def _each(runs):
    """A record of every variant and length."""
    return [next(iter(own.values())) for steps in runs.values() for own in steps.values()]


def _named(runs, way):
    return sorted((n for n in runs if n.startswith(f"{way}_")), key=lambda n: int(n.split("_")[1]))


class Beside(NamedTuple):
    """What a parent became after some tokens, and what stands beside it: losses by seed."""

    before: int  # tokens of the parent
    after: int
    spent: float  # FLOPs after it, over the parent's
    copies: Losses
    continued: Losses  # the parent trained on for as many FLOPs
    scratch: Losses  # the same experts from scratch for as many tokens; empty: no run
    in_all: Losses  # and for as many FLOPs as parent and experts together


def beside(runs: Mapping[str, Steps]) -> Iterator[Beside]:
    """Every cell of the grid of copies, see `by_variant`."""
    scratch = runs[SCRATCH]
    for name in _named(runs, COPIES):
        others = runs[f"{CONTINUED}_{name.split('_')[1]}"].values()
        for (steps, own), other in zip(runs[name].items(), others, strict=True):
            one = next(iter(own.values()))
            budget = _flops(one) + _parent(one, runs)
            in_all = {seed: _at(scratch, budget, seed) for seed in own}
            yield Beside(
                _before(one), _tokens(one), _flops(one) / _parent(one, runs),
                losses_of(own), losses_of(other), losses_of(scratch.get(steps, {})),
                {seed: nats for seed, nats in in_all.items() if nats is not None},
            )  # fmt: skip


def _row(cell):
    others = (cell.continued, cell.scratch, cell.in_all)
    return (
        _millions(cell.before), _millions(cell.after), f"{_mean(cell.copies):.4f}",
        *(_difference(cell.copies, other) for other in others),
    )  # fmt: skip


def _ways(name, runs):
    """Rows of a way that has copies beside it."""
    way, _, before = name.rpartition("_")
    if way in (COPIES, CONTINUED, "scratch") or f"{COPIES}_{before}" not in runs:
        return
    copies = runs[f"{COPIES}_{before}"]
    for steps, own in runs[name].items():
        one = next(iter(own.values()))
        change = _difference(losses_of(own), losses_of(copies[steps]))
        mean = f"{_mean(losses_of(own)):.4f}"
        yield way, _millions(_before(one)), _millions(_tokens(one)), mean, change


def losses_of(seeds: Mapping[int, dict]) -> Losses:
    """The test losses of records by seed."""
    return {seed: r["test_nll"] for seed, r in seeds.items()}


def _mean(losses):
    return float(np.mean(list(losses.values())))


def _difference(own, other):
    pairs = [own[seed] - other[seed] for seed in own if seed in other]
    return str(paired.interval(pairs)) if pairs else "-"


def _tokens(record):
    return record["steps"] * record["tokens_per_step"]


def _before(record):
    """Tokens that the parent had read."""
    return record["config"]["train"]["first_batch"] * record["tokens_per_step"]


def _flops(record):
    return _tokens(record) * record["executed_flops"]


def _parent(record, runs):
    """FLOPs that the parent took."""
    dense = next(iter(next(iter(runs["dense"].values())).values()))
    return _before(record) * dense["executed_flops"]


def _at(scratch: Steps, flops: float, seed: int) -> float | None:
    """The loss from scratch after so many FLOPs; None beyond the longest run."""
    known = [r[seed] for r in scratch.values() if seed in r]
    at = [_flops(r) for r in known]
    if not known or not at[0] <= flops <= at[-1]:
        return None
    return float(np.interp(np.log(flops), np.log(at), [r["test_nll"] for r in known]))


def _millions(tokens):
    return f"{tokens / 1e6:.1f}"


def cells(runs: Mapping[str, Steps]) -> Cells:
    """The losses of copies on the grid."""
    return {
        (_before(one), _tokens(one)): losses_of(own)
        for name in _named(runs, COPIES)
        for own in runs[name].values()
        for one in [next(iter(own.values()))]
    }


def interaction(losses: Mapping[tuple[int, int], float], floor: float = 0.0) -> float:
    """c of log(L - floor) = a + b1 log D1 + b2 log D2 + c log D1 log D2 (Liew et al. 2025).

    Args:
      losses: nats, by the tokens of the parent and after it.
      floor: the loss that no number of tokens goes below.

    Returns:
      c, above zero if the better trained a parent was, the less tokens after it help.
    """
    columns, wanted = _system(losses, floor)
    return float(np.linalg.lstsq(columns, wanted)[0][3])


def _system(losses, floor):
    x, y = np.log(np.array(list(losses), float)).T
    columns = np.stack([np.ones_like(x), x, y, x * y], axis=1)
    return columns, np.log(np.array(list(losses.values())) - floor)


def floor_of(losses: Mapping[tuple[int, int], float]) -> float:
    """The floor with which the law misses the losses least, by squares in nats."""
    found = np.array(list(losses.values()))

    def missed(floor: float) -> float:
        columns, wanted = _system(losses, floor)
        said = columns @ np.linalg.lstsq(columns, wanted)[0]
        return float(np.square(np.exp(said) + floor - found).sum())

    bounds = (0.0, 0.99 * float(found.min()))
    return float(optimize.minimize_scalar(missed, bounds=bounds, method="bounded").x)


def of_seeds(runs: Mapping[str, Steps]) -> list[dict[tuple[int, int], float]]:
    """The grid of copies as `interaction` takes it, of each seed; empty: it is too small."""
    grid = cells(runs)
    if len({d for d, _ in grid}) < 2 or len({d for _, d in grid}) < 2:
        return []
    seeds = sorted(set.intersection(*(set(losses) for losses in grid.values())))
    return [{place: losses[s] for place, losses in grid.items()} for s in seeds]


def _interaction(runs):
    found = of_seeds(runs)
    if not found:
        return "No interaction: it takes two lengths of parents, and two after them."
    floors = [floor_of(losses) for losses in found]
    without = paired.interval([interaction(losses) for losses in found])
    pairs = zip(found, floors, strict=True)
    fitted = paired.interval([interaction(losses, floor) for losses, floor in pairs])
    return (
        f"Interaction of log tokens before and after (Liew et al. 2025: above zero): {without}"
        f" without a floor; {fitted} above each seed's best floor"
        f" ({', '.join(f'{floor:.2f}' for floor in floors)} nats)."
    )


def drawn(records: Sequence[dict]) -> figure.Figure:
    """Test loss over the FLOPs after the parent, a panel for each parent."""
    runs = by_variant(records)
    if SCRATCH not in runs:
        return _drawn_pilots(runs)
    names = _named(runs, COPIES)
    ways = dict.fromkeys(n.rpartition("_")[0] for n in runs if "_" in n)
    found = plots.blank(figsize=(4 * len(names), 4))
    axes = np.atleast_1d(found.subplots(1, len(names), sharey=True))
    axes[0].set(ylabel="test loss, nats per token")
    lines = {}
    for axis, name in zip(axes, names, strict=True):
        before = name.split("_")[1]
        for number, way in enumerate(ways):
            other = f"{way}_{0 if way == 'scratch' else before}"
            if other in runs:
                lines[way] = _line(axis, runs[other], number)
        plots.doubling(axis)
        axis.set(title=f"parent of {before} steps", xlabel="TFLOPs after the parent")
        axis.grid(alpha=0.3)
    found.legend(lines.values(), lines, loc="outside upper center", ncols=len(lines))
    return found


def _drawn_pilots(runs):
    found = plots.blank(figsize=(6, 4))
    axis = found.subplots()
    rated = [r for r in _each(runs) if "_lr_" in r["variant"]]
    for number, name in enumerate(dict.fromkeys(r["variant"].partition("_lr_")[0] for r in rated)):
        own = [r for r in rated if r["variant"].startswith(f"{name}_lr_")]
        rates, losses = [r["learning_rate"] for r in own], [_validation(r) for r in own]
        axis.plot(rates, losses, **plots.style(number), label=name)
    plots.doubling(axis, sorted({r["learning_rate"] for r in rated}))
    axis.set(xlabel="learning rate", ylabel="validation loss, nats per token")
    axis.legend()
    return found


def _line(axis, steps, number):
    """Means, with bars from the lowest seed to the highest."""
    at = [_flops(next(iter(own.values()))) / 1e12 for own in steps.values()]
    bars = [plots.spread(list(losses_of(own).values())) for own in steps.values()]
    mean, ends = zip(*bars, strict=True)
    return axis.errorbar(at, mean, yerr=np.hstack(ends), ms=5, **plots.style(number))
