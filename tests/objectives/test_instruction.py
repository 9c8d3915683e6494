"""Rows of solved questions: what they say, what counts, and how often each task is drawn."""

import collections
import dataclasses

import numpy as np
import pytest
import tokenizers

from moe import objectives
from moe.data import instructions, prepare, questions, tokenizer
from moe.data.questions import SPLITS, Question
from moe.objectives import instruction
from moe.training import loop
from tests.training import toys

START, LENGTH = 0, 16
ASKED = {
    "piqa": [Question(("ab c",) * 2, (" d", " e"), i % 2, ("s s",) * 5) for i in range(40)],
    "copa": [Question(("f",) * 2, (" g g", " h h"), 1, ("t",) * 5) for _ in range(10)],
    "boolq": [Question(("m " * 30,) * 2, (" k", " l"), 0, ("t",) * 5) for _ in range(20)],
}


@pytest.fixture(autouse=True)
def words(monkeypatch):
    """A tokenizer of letters, of which the id is that of the place in the alphabet."""
    ids = {letter: 1 + i for i, letter in enumerate("abcdefghijklmnopqrst")}
    found = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids | {"?": 99}, unk_token="?"))
    found.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.WhitespaceSplit(),
            tokenizers.pre_tokenizers.Split("", "isolated"),
        ]
    )
    monkeypatch.setattr(tokenizer, "load", lambda path: found)
    monkeypatch.setattr(
        questions, "read",
        lambda name, split: [q for i, q in enumerate(ASKED[name]) if i % 10 in SPLITS[split]],
    )  # fmt: skip
    instructions.tasks.cache_clear()
    yield
    instructions.tasks.cache_clear()


def tasks(*names, cap=100, shots=0, split="train"):
    return instructions.tasks("there", START, names, cap, shots, split)


def ids(text):
    return ["abcdefghijklmnopqrst".index(letter) + 1 for letter in text]


def documents(found, length=LENGTH, seed=(0, 0, 0)):
    row, counts = instructions.row(found, seed, length)
    ends = np.flatnonzero(row == START)
    return [
        (row[a + 1 : b].tolist(), counts[a + 1 : b + 1].tolist())
        for a, b in zip(ends, ends[1:], strict=False)
    ]


def test_a_row_by_hand():
    """Answers count, and the token that ends them; questions do not."""
    for text, counts in documents(tasks("piqa")):
        assert text in (ids("abcd"), ids("abce"))
        assert counts == [False] * 3 + [True] * 2
    row, _ = instructions.row(tasks("piqa"), (0, 0, 0), LENGTH)
    assert (row == START).sum() == 4 and row[-1] == -1  # three times five tokens, and the first


def test_a_question_that_is_too_long_keeps_its_answer():
    ((text, counts),) = documents(tasks("boolq"))
    assert text == ids("m" * 14 + "k") and sum(counts) == 2


def test_examples_come_before():
    found = tasks("piqa", shots=2)
    texts = {tuple(t) for i in range(30) for t, _ in documents(found, 40, (0, i, 0))}
    heads = {text[:-4] for text in texts}
    assert heads == {(), tuple(ids("ss")), tuple(ids("ssss"))}


def test_the_mixture():
    """By size, with a cap: of 32, 8 and 16 questions in training 10, 8 and 10."""
    found = tasks("piqa", "copa", "boolq", cap=10)
    np.testing.assert_allclose(found.share, np.array([10, 8, 10]) / 28)
    assert [len(own) for own in found.solved] == [32, 8, 16]
    short = tasks("piqa", "copa", cap=8)
    drawn = collections.Counter(len(documents(short, 8, (0, step, 0))[0][0]) for step in range(400))
    assert drawn[4] / 400 == pytest.approx(0.5, abs=0.1) and drawn[3] + drawn[4] == 400


def test_a_row_is_a_pure_function():
    found = tasks("piqa", "copa")
    first, again = (instructions.row(found, (1, 2, 3), LENGTH) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert any(
        (instructions.row(found, (1, 2, i), LENGTH)[0] != first[0]).any() for i in range(4, 9)
    )


def test_held_out_questions_come_once():
    """Four of piqa's, one of copa's, and none that are trained on."""
    for split in ("validation", "test"):
        rows = list(instructions.held_out(tasks("piqa", "copa", split=split), LENGTH))
        starts = sum(int((row == START).sum()) - 1 for row, _ in rows)
        assert starts == 5
    parts = [set(SPLITS[name]) for name in ("train", "validation", "test")]
    assert set.union(*parts) == set(SPLITS["all"]) and sum(map(len, parts)) == 10


def test_any_part_of_what_is_held_out_is_of_all_tasks():
    found = tasks("piqa", "boolq", split="validation")
    rows = list(instructions.held_out(found, 40))
    of_tasks = [{t for t in "am" if any((row == ids(t)[0]).any() for row, _ in part)}
                for part in (rows[:2], rows[-2:])]  # fmt: skip
    assert len(rows) == 4 and of_tasks == [{"a", "m"}] * 2


def test_a_batch():
    """Padding counts nothing, and each document is a segment of its own."""
    rows = [instructions.row(tasks("piqa"), (0, 0, 0), LENGTH), instructions.empty(LENGTH)]
    made = instructions.batch(rows, START)
    assert made.tokens_BT.shape == (2, LENGTH)
    assert not made.segment_BT[1].any() and not made.loss_mask_BT[1].any()
    assert made.segment_BT[0].tolist() == [1] * 5 + [2] * 5 + [3] * 5 + [0]
    assert made.loss_mask_BT[0].tolist() == [0, 0, 0, 1, 1] * 3 + [0]
    assert made.position_BT[0, :7].tolist() == [0, 1, 2, 3, 4, 0, 1]


def test_a_model_learns_the_answers(tmp_path, monkeypatch):
    """A few steps of a real run: the loss of held-out answers falls."""
    monkeypatch.setattr(prepare, "prepare", lambda config: toys.data())
    options = instruction.Options(tasks=("copa",), shots=0)
    run = dataclasses.replace(
        toys.run_config(train={"steps": 12, "eval_every": 1, "seq_len": 16}),
        objective=objectives.ObjectiveConfig(name="instruction", options=options),
    )
    result = loop.train(run, tmp_path)
    records = [r for r in loop.metrics.read(tmp_path / "metrics.jsonl")
               if r["split"] == "validation"]  # fmt: skip
    assert records[-1]["nll"] < records[0]["nll"] - 0.5
    assert np.isfinite(result["test_nll"])


def test_what_cannot_be():
    with pytest.raises(ValueError, match="the task 'copa' has no question for test: leave it out"):
        ASKED["copa"], kept = ASKED["copa"][:9], ASKED["copa"]
        try:
            tasks("copa", split="test")
        finally:
            ASKED["copa"] = kept
    for options, said in (
        ({"tasks": ()}, "objective.options.tasks is empty"),
        ({"tasks": ("nothing",)}, "objective.options.tasks='nothing' is not one of"),
        ({"cap": 0}, "objective.options.cap=0 must be"),
        ({"shots": 6}, "objective.options.shots=6 must be"),
    ):
        with pytest.raises(ValueError, match=said):
            instruction.Options(**options)
