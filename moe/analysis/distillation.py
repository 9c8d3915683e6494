"""How much of a teacher's gain its students keep, as Switch counts it (Fedus et al. 2021, 4.1)."""

from collections.abc import Sequence

from moe.analysis import markdown, paired, scaling


def table(records: Sequence[dict], dense: str) -> str:
    """A row for each model: its loss, its size, and what it keeps of its teacher's gain.

    Args:
      records: the lines of results.jsonl; a student is called <teacher>_<kind>.
      dense: the variant of equal FLOPs that gains are over.
    """
    runs = scaling.by_variant(list(records))
    head = ("model", "parameters", "less than teacher", "test nats", "Δ dense (95%)", "gain kept")
    rows = [_row(name, runs, dense) for name in runs]
    return f"{markdown.table(head, rows)}\n\n{LEGEND}"


LEGEND = (
    "Δ dense: the paired difference from the dense model that learned from text alone, with the 95%"
    " interval over seeds. gain kept: the share of the teacher's gain over it. Switch reports 0.29"
    " for a student that is 99% smaller, 0.37 at 82%."
)


def teacher_of(name: str, runs: dict) -> str | None:
    """The model that a student is called after, None of others."""
    found = [other for other in runs if name.startswith(f"{other}_")]
    return max(found, key=len) if found else None


def _row(name, runs, dense):
    own, base = runs[name], runs[dense]
    seeds = [seed for seed in own if seed in base]
    gain = paired.interval([own[s]["test_nll"] - base[s]["test_nll"] for s in seeds])
    size = next(iter(own.values()))["total_parameters"]
    teacher = teacher_of(name, runs)
    smaller = kept = ""
    if teacher is not None and name != dense:
        taught = runs[teacher]
        smaller = f"{1 - size / next(iter(taught.values()))['total_parameters']:.0%}"
        kept = paired.kept_text(own, taught, base, "test_nll", ".2f")
    mean = sum(r["test_nll"] for r in own.values()) / len(own)
    change = "" if name == dense else f"{gain}"
    return name, f"{size:,}", smaller, f"{mean:.4f}", change, kept
