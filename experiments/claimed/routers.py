"""Routers, what keeps experts busy, capacity and precision: differences of test loss and speeds.

The claims are those of the programs; what stands here is why ours came out as it did.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from experiments import capacity, precision
from experiments import routers as compared
from experiments.claimed import recorded
from moe.analysis import claims, routers, scaling
from moe.analysis.claims import Region, Row
from moe.analysis.routers import Claim

UNROUTED = (
    "more of top-1's tokens meet no expert, and here both cost the same, where theirs paid for a"
    " second expert"
)
SHORT = (
    "far from twice, and whether its loss is lower is open: runs are short, and after them routers"
    " have hardly decided"
)
WITHIN = 0.01  # nats

BALANCE = (
    Claim("Shazeer et al. 2017", "without a balance loss a few experts take over, and quality is"
          " lost", "balance", "neither"),
    Claim("Zoph et al. 2022", f"a z-loss costs no quality (by {WITHIN})", "balance_and_z",
          "balance", within=WITHIN),
    Claim("Wang et al. 2024", "a bias beats a balance loss of the right weight", "sigmoid_bias",
          "sigmoid_loss_x10"),
)  # fmt: skip


class Study(NamedTuple):
    """A recorded study, and the claims that it tests."""

    folder: str
    said: Sequence[Claim]
    command: str


ROUTERS = recorded.command_of("routers")
STUDIES = (
    Study("routers_cpu/decoder", compared.CLAIMS["decoder"], ROUTERS),
    Study("routers_cpu/masked", compared.CLAIMS["masked"], ROUTERS),
    Study("balance_cpu", BALANCE, recorded.command_of("balance")),
    Study("capacity_cpu", capacity.CLAIMS, recorded.command_of("capacity")),
    Study("precision_cpu", precision.CLAIMS, recorded.command_of("precision")),
)

WHY = {  # better, than -> why it came out so
    ("hash_balanced", "top_1"): "as there; a table has nothing to learn and drops nothing, while"
    " top-1's experts change tokens as it learns",
    ("hash_balanced", "hash_random"): "as there; a random table is uneven and drops",
    ("hash_random", "hash_clustered"): "as there, but here by drops: like words are frequent"
    " together, and half of the tokens find no slot",
    ("multihash_2", "hash_balanced"): "the same sign; too small for two seeds",
    ("base", "top_1"): "it learns by a balanced assignment and is judged by a greedy one, which"
    " sends a fifth of the tokens elsewhere and loses much by it",
    ("sinkhorn_1", "reinforce"): "as there; the policy never left the uniform one",
    ("sinkhorn_1", "hash_random"): "theirs are orders of magnitude longer: a router that learns has"
    " not caught up with a table yet",
    ("sigmoid_2", "sigmoid_2_loss"): "no difference in loss; the bias drops less, but a loss of"
    " ten times the weight drops as little",
    ("top_p", "top_2"): "no difference in loss",
    ("top_1", "dense"): "as there, by little at so few tokens",
    ("expert_choice_2", "gshard"): SHORT,
    ("expert_choice_2", "top_1"): SHORT,
    ("expert_choice_2", "expert_choice_2_capped"): "no difference; seeds differ as much as routers",
    ("soft_by_sequence", "expert_choice_2_by_sequence"): "the same sign; seeds differ as much",
    ("balance", "neither"): "as there: the second layer collapses within 200 steps, and a quarter"
    " of the choices are dropped",
    ("balance_and_z", "balance"): "no difference; it keeps logits small and the router undecided"
    " for longer",
    ("sigmoid_bias", "sigmoid_loss_x10"): "no difference; both drop as little",
    ("top_1_factor_1", "top_2_factor_1"): UNROUTED,
    ("top_1_factor_1_25", "top_2_factor_1_25"): UNROUTED,
    ("float32", "bfloat16"): "nothing diverges in three seeds; ours are small, and keep their"
    " weights in float32",
    ("selective", "bfloat16"): "the same: of the router only scores and gradients are rounded",
    ("selective", "float32"): "as there",
}


def rows() -> list[Row]:
    """Every claim of every study, and what precision costs in time."""
    return [row for study in STUDIES for row in _of_study(study)] + [_seconds()]


def _of_study(study) -> Iterator[Row]:
    runs = recorded.runs(study.folder)
    for claim in study.said:
        holds, ours = (_faster if claim.faster else _lower)(claim, runs)
        why = WHY[claim.better, claim.than]
        yield Row(claim.says, claim.source, holds, ours, why, study.command)


def _lower(claim, runs):
    """A difference of test loss, over documents and seeds."""
    documents, half, _ = routers.difference(runs, claim.better, claim.than)
    found = claims.difference(routers.together(documents, half))
    return Region(high=claim.within), {f"{claim.better} less {claim.than}": found}


def _faster(claim, runs):
    """How many times fewer steps it takes to the other's last loss."""
    both = scaling.shared(runs[claim.better], runs[claim.than])
    shares = scaling.steps_to_baseline(both, runs[claim.than])
    found = claims.times([-math.log(share) for share in shares])
    return Region(low=claim.faster), {f"{claim.better} over {claim.than}": found}


def _seconds():
    """What a step with selective precision takes."""
    runs = recorded.runs("precision_cpu")
    selective, single = (scaling.first(runs[v])["step_seconds"] for v in ("selective", "float32"))
    return Row(
        "selective precision is 1.2 times as fast as float32", precision.SOURCE, Region(low=1.2),
        claims.alone(f"{single / selective:.2f} times", single / selective),
        "bfloat16 saves next to nothing on these cores in a model so small", STUDIES[-1].command,
    )  # fmt: skip
