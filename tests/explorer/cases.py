"""Traces without a model: a text with everything that could break a page, and drawn choices."""

import numpy as np

from moe.evaluation.traces import Traces
from moe.explorer import data, page, takers
from moe.explorer.takers import Chosen, Kinds

EVIL = (
    "</script><script>document.title='broken'</script>", "<!--", "&lt;b&gt;", "\"'", "{{data}}",
    "<img src=x onerror=document.title='broken'>", "\u202e", "\u200b", "\x00\x1b", "\u2028",
)  # fmt: skip
WORDS = (*(word.encode() for word in EVIL), b"\xe2\x80", b"\x99", b" the", b"\n", b" router", b"\t")
DOMAINS = ("one", "<two>")
OFTEN = 12  # the number of a word
LENGTH = 100  # tokens of a document


def traces(tokens=2000, layers=3, k=2, experts=8, seed=0) -> Traces:
    """Documents of `LENGTH` tokens whose words come in turn, some oftener; choices at random."""
    rng = np.random.default_rng(seed)
    number_N = np.arange(tokens)
    token_N = np.where(number_N % 48 < 32, number_N % len(WORDS), OFTEN)
    gate_LN = 0.5 + 0.5 * rng.random((layers, tokens))
    first_LN = rng.integers(0, experts, (layers, tokens))
    others = (first_LN + 1 + i for i in range(k - 1))
    return Traces(
        token_N=token_N, target_N=np.roll(token_N, -1), predicted_N=token_N,
        document_N=number_N // LENGTH, position_N=number_N % LENGTH,
        domain_N=number_N // LENGTH % 2,
        expert_LNK=np.stack([first_LN, *(other % experts for other in others)], -1),
        gate_LNK=np.stack([gate_LN, *[(1 - gate_LN) / max(1, k - 1)] * (k - 1)], -1),
    )  # fmt: skip


def taken(expert: int, **size) -> Traces:
    """Layer 1 sends every `OFTEN` to this expert, as the first choice; all else is at random."""
    found = traces(**size)
    found.expert_LNK[1, found.token_N == OFTEN, 0] = expert
    return found


def sorted_by(found: Traces) -> list[Kinds]:
    """Is it the word that comes often? And its domain."""
    often_N = np.where(found.token_N == OFTEN, 0, 1)
    return [Kinds("<u>", ("<i>", "other"), often_N), Kinds("of", DOMAINS, found.domain_N, True)]


def explored(*some: tuple[Traces, int]) -> dict:
    """Of traces and their numbers of experts."""
    found = [one for one, _ in some]
    ids = data.known(found)
    runs = [
        {"name": f"run {i} <b>"} | data.choices(one, ids, experts)
        for i, (one, experts) in enumerate(some)
    ]
    text = data.text(found, dict(enumerate(WORDS)), DOMAINS)
    return {"text": text | {"kinds": takers.packed(sorted_by(found[0]))}, "runs": runs}


def section(*some: tuple[Traces, int]) -> str:
    """Which experts take what of them."""
    first, _ = some[0]
    runs = [Chosen(f"run {i} <b>", *one) for i, one in enumerate(some)]
    return takers.section(sorted_by(first), runs, first.document_N)


def written(path, *some: tuple[Traces, int]) -> str:
    """The address of a page of these."""
    records = [
        {"step": step, "split": split, "loss": 5 - step / 100, "load_LE": [[0.25, 0.75]]}
        for step in (10, 20, 30)
        for split in ("train", "validation")
    ]
    runs = [page.Run(f"run {i} <b>", {"a fact": "<1>"}, records) for i in range(len(some) or 1)]
    shown = (explored(*some), "", section(*some)) if some else (None, "no <experts>")
    path.write_text(page.made(runs, *shown), "utf-8")
    return path.as_uri()
