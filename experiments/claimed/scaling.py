"""Experts against dense at equal FLOPs: what they gain, in how many steps, seconds and tokens."""

import math

from experiments.claimed import recorded
from moe.analysis import efficiency, paired, scaling
from moe.analysis.claims import ABOVE, BELOW, Finding, Region, Row, difference
from moe.analysis.efficiency import Speedup

COMMAND = recorded.command_of("scaling")
LADDER = recorded.command_of("scaling", "scaling.py:ladder")
TOKENS = recorded.command_of("data_efficiency", "scaling.py:cpu")
SWITCH = "Fedus et al. 2021"
GLAM = "Du et al. 2022"
LEARNED = {
    "8 experts, top-2": "e8_top2",
    "32 experts, top-1": "e32_top1",
    "32 experts, top-2": "e32_top2",
}


MORE = {  # experts, beside the dense model of twice the FLOPs
    "32 experts, top-1": "e32_top1",
    "32 experts, top-2": "e32_top2",
    "64 experts, top-1": "e64_top1",
    "64 experts, top-2": "e64_top2",
}
DOUBLED = "dense_2x_wide"


def rows() -> list[Row]:
    """What papers claim of loss at equal FLOPs, of speed, and of data."""
    runs = recorded.runs("scaling_cpu")
    return [*_against_dense(runs), *_among(runs), *_controls(runs), *_speed(runs), *_data(runs)]


def _against_dense(runs):
    """The headline first."""
    found = {name: less(runs, variant, scaling.BASELINE) for name, variant in LEARNED.items()}
    said = "experts beat dense at equal FLOPs", f"{SWITCH}; {GLAM}", BELOW
    headline = {"32 experts, top-2": found.pop("32 experts, top-2")}
    yield Row(
        *said, headline,
        "as there; parameters that go by the token alone do more at this size (the controls"
        " below), so that it need not be routing", COMMAND,
    )  # fmt: skip
    yield Row(
        *said, found,
        "as there; at an eighth of the tokens neither is ahead yet, and top-1 is behind", COMMAND,
    )  # fmt: skip


def less(runs: recorded.Runs, one: str, other: str) -> Finding:
    """The test loss of a variant less another's, over paired seeds."""
    both = scaling.shared(runs[one], runs[other])
    return difference(scaling.over_seeds(both, runs[other]))


def _among(runs):
    of_two = {
        f"{n} less {m}, top-2": less(runs, f"e{n}_top2", f"e{m}_top2")
        for n, m in ((32, 8), (64, 32))
    }
    of_one = {
        f"{n} less {m}, top-1": less(runs, f"e{n}_top1", f"e{m}_top1")
        for n, m in ((16, 4), (32, 16), (64, 32))
    }
    yield Row(
        "the more experts, the lower the loss (theirs: 2 to 256)", SWITCH, BELOW, of_two | of_one,
        "as there up to 32; parameters grow with experts, FLOPs do not", LADDER,
    )  # fmt: skip
    yield Row(
        "a doubling of experts brings less than the one before", "Clark et al. 2022", ABOVE,
        {"16 to 32 less 32 to 64, top-1": _bent(runs, "e16_top1", "e32_top1", "e64_top1")},
        "as there; from 4 to 32 each doubling brings about as much, 0.06 nats", LADDER,
    )  # fmt: skip
    yield Row(
        "experts beat dense of more FLOPs (theirs: 3.5 times, in time; ours: twice)", SWITCH, BELOW,
        {name: less(runs, variant, DOUBLED) for name, variant in MORE.items()},
        "ahead on average, 32 by no more than hardware makes (dense of twice the FLOPs and 64 were"
        " trained on a GPU, 32 on a CPU: 0.003 nats on average, at most 0.014); dense of twice the"
        " FLOPs is the best of three shapes, at its own rate, with fewer parameters", LADDER,
    )  # fmt: skip
    yield Row(
        "top-1 beats top-2 (theirs: in quality a second)", SWITCH, BELOW,
        {"32 experts": less(runs, "e32_top1", "e32_top2")},
        "no difference after so many tokens, and before it top-2 is ahead: its gates start at a"
        " half, those of top-1 at one in 32", COMMAND,
    )  # fmt: skip


def _bent(runs, few, some, many):
    """What the first doubling brings less what the second does, over paired seeds."""
    losses = [{seed: r["test_nll"] for seed, r in runs[name].items()} for name in (few, some, many)]
    bends = [a - 2 * b + c for a, b, c in (([one[s] for one in losses]) for s in losses[0])]
    return difference(paired.interval(bends))


def _controls(runs):
    yield Row(
        "a fixed hash of the token beats Switch", "Roller et al. 2021", BELOW,
        {"32 experts, top-1": less(runs, "e32_hash", "e32_top1")},
        "as there; a table has nothing to learn, its experts keep their tokens, and it drops few",
        COMMAND,
    )  # fmt: skip
    yield Row(
        "experts beat tables of hashed n-grams with as many parameters", "a control of ours", BELOW,
        {"32 experts, top-2": less(runs, "e32_top2", "dense_ngrams")},
        "much of what experts buy here is what the last tokens tell; the lead of n-grams shrinks"
        " as runs grow longer", COMMAND,
    )  # fmt: skip
    yield Row(
        "a router that learns beats experts drawn at random", "a control of ours", BELOW,
        {"32 experts, top-2": less(runs, "e32_top2", "e32_top2_random")},
        "drawn anew at every step, in tests too, so that it shows that noise hurts, and no more",
        COMMAND,
    )  # fmt: skip


def _speed(runs):
    yield Row(
        "dense's loss in 7.5 times fewer steps (theirs: 64 experts)", SWITCH, Region(low=7.5),
        {name: fewer(runs, variant) for name, variant in MORE.items()},
        "fewer, but not so many; the factor still grows with the length of the run", LADDER,
    )  # fmt: skip
    yield Row(
        "dense's loss in 7 times less time (theirs: 64 experts)", SWITCH, Region(low=7.0),
        {name: sooner(runs, variant) for name, variant in MORE.items()},
        "the same, and a step with narrow experts takes longer than dense's of as many FLOPs; step"
        " times are one core's and taken as exact", LADDER,
    )  # fmt: skip


def fewer(runs: recorded.Runs, variant: str, steps: int = 0, slower: float = 1.0) -> Finding:
    """How many times fewer tokens a variant needs for dense's loss after so many steps.

    Args:
      runs: a study's.
      variant: of its variants.
      steps: a length of dense's; 0: the longest.
      slower: what the factor is divided by.
    """
    dense = runs[scaling.BASELINE]
    found = efficiency.speedup(runs[variant], dense, steps or scaling.first(dense)["steps"])
    mean, low, high = (one / slower for one in found[:3])
    return speedup(found._replace(mean=mean, low=low, high=high))


def sooner(runs: recorded.Runs, variant: str) -> Finding:
    """The same in time, by the steps' times side by side."""
    own, dense = (scaling.first(runs[name])["step_seconds"] for name in (variant, scaling.BASELINE))
    return fewer(runs, variant, slower=own / dense)


def speedup(found: Speedup) -> Finding:
    """As it is shown; of a bound nothing is known above it."""
    ends = (found.mean, math.inf) if found.at_least else (found.low, found.high)
    return Finding(f"{found} times" if found.reached else f"{found}", *ends)


def _data(runs):
    dense = scaling.first(runs[scaling.BASELINE])
    for name, variant in LEARNED.items():
        yield Row(
            f"experts need fewer tokens for dense's loss: {name}", GLAM, Region(low=1.0),
            {
                f"{one['steps'] * one['tokens_per_step'] / 1e6:.1f}M tokens": fewer(
                    runs, variant, one["steps"]
                )
                for one in efficiency.lengths(dense)
            },
            "as there from a quarter of the tokens on, and the more the longer the run; a hash of"
            " the token and n-grams, which route nothing, save more", TOKENS,
        )  # fmt: skip
