"""Switch against T5 on span corruption."""

from experiments.claimed import recorded, scaling
from moe.analysis.claims import BELOW, Region, Row

COMMAND = recorded.command_of("encoder_decoder")
WHY = (
    "a row has 13 targets, so that all of training has fewer than the study of decoders had when"
    " experts drew level there"
)


def rows() -> list[Row]:
    """What Switch claims over T5, at equal executed FLOPs."""
    runs = recorded.runs("encoder_decoder_cpu")
    less = {f"{n} experts, top-1": scaling.less(runs, f"e{n}_top1", "dense") for n in (8, 32)}
    return [
        Row(
            "Switch beats T5 at equal FLOPs", scaling.SWITCH, BELOW, less, WHY, COMMAND
        ),
        Row(
            "T5's loss in 7.5 times fewer steps (theirs: 64 experts)", scaling.SWITCH,
            Region(low=7.5), {"32 experts, top-1": scaling.fewer(runs, "e32_top1")}, WHY, COMMAND,
        ),
        Row(
            "T5's loss in 7 times less time (theirs: 64 experts)", scaling.SWITCH, Region(low=7.0),
            {"32 experts, top-1": scaling.sooner(runs, "e32_top1")},
            "no fewer steps, and each takes longer; step times are one machine's, taken as exact",
            COMMAND,
        ),
    ]  # fmt: skip
