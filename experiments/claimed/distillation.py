"""What a dense student of equal FLOPs keeps of experts, and what it would have without them."""

from experiments.claimed import recorded
from experiments.claimed.scaling import SWITCH
from moe.analysis import distillation, paired
from moe.analysis.claims import BELOW, Finding, Region, Row, difference, points, share
from moe.errors import UserError

COMMAND = recorded.command_of("distillation")
DENSE = "dense"
TEACHERS = {"8 experts": "e8_top2", "32 experts": "e32_top2"}
KINDS = {"copied": "weights alone", "switch": "Switch's", "half": "half of the loss"}
CONTROL = (
    "whatever starts from trained weights has had more training than dense; see the control below"
)


def rows() -> list[Row]:
    """What Switch claims of its students, and the control of ours."""
    runs = recorded.runs("distillation_cpu")
    return [_kept(runs), _smaller(runs), *_parts(runs), _control(runs)]


def _shares(runs: recorded.Runs, teacher: str) -> dict[int, float]:
    """Of the gain that Switch's student keeps, by seed."""
    student, taught, base = runs[f"{teacher}_switch"], runs[teacher], runs[DENSE]
    gains = {s: base[s]["test_nll"] - taught[s]["test_nll"] for s in student}
    if min(gains.values()) <= 0:
        raise UserError(f"{teacher} gains nothing over {DENSE} with some seed: no share is kept")
    return {s: (base[s]["test_nll"] - student[s]["test_nll"]) / gains[s] for s in student}


def _kept(runs):
    found = {
        name: share(paired.interval(list(_shares(runs, teacher).values())), "the gain")
        for name, teacher in TEACHERS.items()
    }
    return Row(
        "Switch's student keeps about 30% of the teacher's gain (28% to 37%)", SWITCH,
        Region(0.28, 0.37), found, f"more; {CONTROL}", COMMAND,
    )  # fmt: skip


def _smaller(runs):
    fewer, more = (_shares(runs, teacher) for teacher in TEACHERS.values())
    return Row(
        "the more a model is compressed, the less of its gain is kept", SWITCH, BELOW,
        {"32 less 8 experts": points(paired.interval([more[s] - fewer[s] for s in more]))},
        "as there; here because both students gain as much, and 32 experts gain more", COMMAND,
    )  # fmt: skip


def _parts(runs):
    yield Row(
        "a student that starts from nothing gains (theirs: 3% of the gain)", SWITCH, BELOW,
        _less(runs, "soft", DENSE),
        "as there, and more; a dense teacher would be its control, and was not tried", COMMAND,
    )  # fmt: skip
    yield Row(
        "the teacher's weights add to its targets", SWITCH, BELOW, _less(runs, "switch", "soft"),
        f"as there; {CONTROL}", COMMAND,
    )  # fmt: skip
    yield Row(
        "the teacher's weights without its targets gain nothing (by 0.01)", SWITCH,
        Region(low=-0.01), _less(runs, "copied", DENSE),
        f"they gain nearly all that any student gains; {CONTROL}", COMMAND,
    )  # fmt: skip
    yield Row(
        "the teacher's targets add to its weights", SWITCH, BELOW,
        _less(runs, "switch", "copied"),
        "those of the better teacher do, little beside what the weights gain", COMMAND,
    )  # fmt: skip


def _less(runs: recorded.Runs, kind: str, other: str) -> dict[str, Finding]:
    """A kind of student less another, or less dense, of each teacher."""
    found = {}
    for name, teacher in TEACHERS.items():
        base = runs[other if other == DENSE else f"{teacher}_{other}"]
        found[name] = difference(distillation.less(runs[f"{teacher}_{kind}"], base))
    return found


def _control(runs):
    base = runs[distillation.control_of(DENSE)]
    found = {
        f"{name}, {how}": difference(distillation.less(runs[f"{teacher}_{kind}"], base))
        for name, teacher in TEACHERS.items()
        for kind, how in KINDS.items()
    }
    return Row(
        "students that start from experts beat one that starts from the dense model",
        "a control of ours", BELOW, found,
        "no difference that three seeds could tell: students gain by longer training, on text that"
        " is read twice, and a dense model's attention and embeddings give it, too", COMMAND,
    )  # fmt: skip
