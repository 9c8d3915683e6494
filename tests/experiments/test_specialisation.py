"""What is measured of traces, of which models, and the tables of it."""

import types

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import specialisation as configs
from experiments import specialisation, trace_measures, traced
from moe import schema
from moe.analysis import expert_claims, specialists
from moe.analysis.paired import Interval
from moe.config import MoEConfig
from moe.evaluation.traces import Traces
from tests.training import toys

DOCUMENTS = 24
LONG = 20
DOMAINS = ("encyclopedia_en", "encyclopedia_fr", "encyclopedia_es", *traced.ENGLISH[1:])
SPELLED = ["", " the", " runs", " cat", ".", " 12", "s", " "]


def made(seed, by_domain):
    """Two layers of four experts; the second goes by the domain, or by the token."""
    rng = np.random.default_rng(0)
    token_N = rng.integers(0, len(SPELLED), DOCUMENTS * LONG)
    document_N = np.repeat(np.arange(DOCUMENTS), LONG)
    domain_N = document_N % len(DOMAINS)
    first_LN = np.array([
        np.random.default_rng(100 + seed).integers(0, 4, len(token_N)),
        (domain_N if by_domain else token_N) % 4,
    ])  # fmt: skip
    tokens = Traces(
        token_N, np.roll(token_N, -1), rng.permutation(token_N), document_N,
        np.arange(len(token_N)) % LONG, domain_N, np.stack([first_LN, (first_LN + 1) % 4], -1),
        np.ones(1),
    )  # fmt: skip
    data = types.SimpleNamespace(domain_names=DOMAINS, tokenizer_path="", vocab_size=len(SPELLED))
    return traced.Traced(tokens, document_N, 4, data)


@pytest.fixture(scope="module")
def found():
    """Of two models, with two seeds each."""
    known = {"the": "determiner", "runs": "verb", "cat": "noun"}
    lines = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(traced.tokenizer, "load", lambda path: None)
        patch.setattr(traced.token_labels, "spellings", lambda words, size: SPELLED)
        patch.setattr(traced.lexicon, "read", lambda: known)
        labels = traced.labels(made(0, False))
    for name in ("e32_top2", "e32_emo"):
        both = [made(seed, name == "e32_emo") for seed in (0, 1)]
        for seed, own in enumerate(both):
            measures = trace_measures.of_labels(own, labels, 8) | trace_measures.of_choices(own, 8)
            measures |= trace_measures.saturated(made(seed + 5, name == "e32_emo"), own, 3)
            log = {"step": [1, 2], "entropy": [1.5, 1.0]}
            log |= {key: [[1.25, 1.25], [1.5, 1.5]] for key in ("load_entropy_L", "max_load_L")}
            lines.append({"variant": name, "seed": seed, "measures": measures, "over_time": log})
        lines.append({"variant": name, "measures": trace_measures.matched(*both)})
    return lines


def test_labels_find_their_experts(found):
    top, pools = (specialists.by_model(found)[name] for name in ("e32_top2", "e32_emo"))
    for name in ("token id", "verb", "punctuation", "number", "domain"):
        assert specialists.over_seeds(top[name], 0, less="null").mean < 0.05  # the layer of chance
    assert top["token id"][0][1]["value"] == pytest.approx(1)
    assert top["verb"][0][1]["value"] > 0.3 > 0.1 > top["verb"][0][1]["null"]
    assert top["verb"][0][1]["same_ids"] == pytest.approx(top["verb"][0][1]["value"])
    assert top["language"][0][1]["value"] < 0.05 and pools["language"][0][1]["value"] > 0.9
    assert pools["language"][0][1]["same_ids"] < 0.1
    assert pools[specialists.DOMAINS][0][1]["value"] == 0.5  # two of four experts each
    assert pools[specialists.SATURATION + " top-1 since step 3"][0][1]["value"] == 1
    assert top[specialists.SATURATION + " top-1 since step 3"][0][0]["value"] < 0.4
    assert pools[specialists.MATCHED][0][1]["value"] == 1


def test_the_claims(found):
    table = specialists.by_model(found)
    said = {
        (claim.words, model, layer): expert_claims.verdict(
            expert_claims.ours(claim, table, model, layer), claim.above
        )
        for claim in expert_claims.CLAIMS
        for model in table
        for layer in (0, 1)
    }
    assert said["syntax tells more than topic", "e32_top2", 1] == "agrees"
    assert said["syntax tells more than topic", "e32_emo", 1] == "disagrees"
    assert said["in pools topic tells more than syntax", "e32_emo", 1] == "agrees"
    assert said["syntax tells more than topic", "e32_top2", 0] == "open"
    assert said["syntax tells more than language", "e32_top2", 1] == "agrees"
    assert said["in pools domains tell more", "e32_emo", 1] == "agrees"
    assert expert_claims.verdict(Interval(-1, 2), True) == "open"
    lines = expert_claims.text(found).splitlines()
    assert sum(line.startswith("| verbs have their experts | ST-MoE") for line in lines) == 2
    assert sum("| e32_emo | 1 | +" in line for line in lines) == 1


def test_the_tables_and_the_figure(found, tmp_path):
    lines = specialists.text(found).splitlines()
    (row,) = (line for line in lines if line.startswith("| token id | e32_top2 |"))
    assert "| 1.0000 ± 0.0000 |" in row
    assert "| e32_emo | 1 | 1 to 2 | 1.500 to 1.000 | 1.250 to 1.500 | 1.250 to 1.500 |" in lines
    assert any(line.startswith("| matched between seeds | e32_emo |") for line in lines)
    specialists.drawn(found).savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_seeds_and_documents_both_count():
    measure = [[{"value": v, "half": 0.3, "null": 0.1}] for v in (1.0, 1.2)]
    found = specialists.over_seeds(measure, 0, less="null")
    assert found.mean == pytest.approx(1.0) and found.half > 1.2
    alone = specialists.over_seeds(measure[:1], 0)
    assert alone == (1.0, pytest.approx(0.3))


def test_documents_are_whole_ones_over_rows():
    """The toy's test stream in rows of 8: a row goes on with the document of the row before."""
    run, data = toys.run_config(), toys.data()
    text = list(run.source(data).held_out("test", 2))
    found_N = traced.documents(run, data, text)
    stream = data.tokens["test"].astype(int)
    number_X = np.cumsum(stream == 0) - 1
    rows = traced.batches.eval_rows(data, "test", 8, 16)
    want = np.concatenate([number_X[8 * row : 8 * row + 8] for row in rows])
    np.testing.assert_array_equal(found_N, want)


def test_where_earlier_checkpoints_lie(tmp_path):
    """The model's own, and of its shorter run those before it decayed."""
    whole = toys.run_config(optimizer={"schedule": "wsd", "decay_fraction": 0.2})
    runs = {"emo@750": whole.replace(train={"steps": 750})}
    runs |= {name: whole.replace(train={"steps": 3000}) for name in ("emo", "other")}
    for name, steps in (("emo", (2000, 3000)), ("emo@750", (600, 750)), ("other", (1000, 3000))):
        for step in steps:
            (tmp_path / name / "seed1" / "checkpoints" / str(step)).mkdir(parents=True)
    model = specialisation.Model("emo", runs, tmp_path)
    short = tmp_path / "emo@750" / "seed1"
    assert model.earlier(1) == {600: short, 2000: tmp_path / "emo" / "seed1"}
    assert model.earlier(0) == {}


def test_pools_have_the_rate_and_the_experts_of_top_k():
    config = configs.cpu()
    top = config.pretrained.variants.e32_top2
    for name, causal in (("e32_emo", "never"), ("e32_emo_running", "always")):
        own = config.variants[name]
        assert own.learning_rate == top.learning_rate
        fields = {**config.experts, "d_ff": 8, **own.experts}
        experts = schema.from_config_dict(MoEConfig, ConfigDict(fields), name)
        assert experts.causal == causal and (experts.num_experts, experts.k) == (32, 2)
    assert config.models == ("e8_top2", "e32_top2")
