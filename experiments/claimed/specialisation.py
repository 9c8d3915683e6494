"""What experts specialise in: those of top-k, and those in pools."""

from experiments.claimed import recorded, scaling
from moe.analysis import expert_claims, specialists
from moe.analysis.claims import ABOVE, BELOW, Region, Row, difference
from moe.analysis.expert_claims import BASE, CLAIMS, EMO, POOLED

COMMAND = recorded.command_of("specialisation")
WHY = {
    "verbs have their experts": "as there, though hardly any: they prefer some by little",
    "punctuation has its experts": "as there; how much differs from seed to seed",
    "numbers have their experts": "as there; in one layer one seed has an expert for nearly all of"
    " them, and others have none",
    "syntax tells more than topic": "as there with 32 experts; 8 are too few to tell, and their"
    " seeds differ",
    "syntax tells more than language": "the same sign everywhere; in the second layer seeds differ"
    " much",
    "in pools topic tells more than syntax": "as there, and of pools that know no later token, too",
    "in pools domains tell more": "as there",
}


def rows() -> list[Row]:
    """What papers claim, of each model and layer, and of what pools cost."""
    table = specialists.by_model(recorded.looked("specialisation_cpu/specialisation.jsonl"))
    return [*(_of(claim, table) for claim in CLAIMS), _cost()]


def _of(claim, table):
    unit = "of the choices" if claim.measure == specialists.DOMAINS else "of the entropy"
    found = {
        f"{model}, layer {layer}": difference(expert_claims.ours(claim, table, model, layer), unit)
        for model, own in table.items()
        if (POOLED in model) == claim.pools
        for layer in range(len(own[claim.measure][0]))
    }
    holds = ABOVE if claim.above else BELOW
    return Row(claim.words, claim.source, holds, found, WHY[claim.words], COMMAND)


def _cost():
    """Pools that know no later token: the loss of the others is not of prediction."""
    runs = recorded.runs("specialisation_cpu") | {BASE: recorded.runs("abilities_cpu")[BASE]}
    return Row(
        "with all of their experts, models with pools are as good as others (by 0.01)", EMO,
        Region(high=0.01), {"e32_emo_running": scaling.less(runs, "e32_emo_running", BASE)},
        "they lose much of what experts gain over dense; the few documents of a batch crowd in"
        " their pools, and the rate is that of top-k", COMMAND,
    )  # fmt: skip
