"""Labels of tokens, from text and from a lexicon."""

import numpy as np

from moe.analysis import token_labels
from moe.analysis.token_labels import KINDS
from moe.data import lexicon
from moe.evaluation.traces import Traces
from tests.data import test_packages

LEXICON = ";;; a comment\nthe DT\nruns VBZ\nwhy WRB\nnow RB\nParis NNP\n\nup RP|IN\n"


def test_words_and_signs(tmp_path, monkeypatch):
    path = tmp_path / "lexicon.whl"
    test_packages.zip_of(path, {"textblob/en/en-lexicon.txt": LEXICON.encode()})
    monkeypatch.setattr(lexicon.packages, "fetch", lambda name, cache_dir: path)
    known = lexicon.read()
    assert known == {
        "the": "determiner", "runs": "verb", "why": "adverb", "now": "adverb", "Paris": "noun",
        "up": "other",
    }  # fmt: skip
    found = lexicon.words("The well-made Zork runs, dimly blinking: 1,024 vorpal_", known)
    assert [(word.part, word.end - word.start) for word in found] == [
        ("determiner", 3), ("noun", 9), ("noun", 4), ("verb", 4), ("punctuation", 1),
        ("adverb", 5), ("verb", 8), ("punctuation", 1), ("number", 5), ("adjective", 6),
        ("punctuation", 1),
    ]  # fmt: skip


SPELLED = ["", " the", " run", "s", ".", " ", "12", "\ufffd", " Paris", "a1"]


def test_kinds():
    want = (
        *("other", "word", "word", "inside a word", "punctuation", "other", "number", "other"),
        *("capitalised word", "other"),
    )
    assert [KINDS[i] for i in token_labels.kinds(SPELLED)] == list(want)


def test_tokens_have_the_part_of_speech_of_their_word():
    token_N = np.array([0, 1, 2, 3, 4, 5, 6, 1, 2, 3])
    document_N = np.array([0, 0, 0, 0, 0, 1, 1, 2, 2, 2])
    domain_N = np.array([0, 0, 0, 0, 0, 0, 0, 1, 1, 1])
    rest = dict.fromkeys(Traces._fields)
    given = Traces(**rest | {"token_N": token_N, "document_N": document_N, "domain_N": domain_N})
    known = {"the": "determiner", "runs": "verb"}
    found_N = token_labels.parts_of_speech(given, SPELLED, known, [0])
    names = [lexicon.PARTS[i] if i >= 0 else "" for i in found_N]
    assert names == ["", "determiner", "verb", "verb", "punctuation", "", "number", "", "", ""]


def test_labels_of_labels():
    label_N = np.array([3, 1, -1, 2])
    assert token_labels.renumbered(label_N, [2, 3]).tolist() == [1, -1, -1, 0]
    assert token_labels.is_one(label_N, 3).tolist() == [1, 0, -1, 0]
    assert token_labels.positions([0, 1, 2, 3, 4, 7, 8]).tolist() == [0, 1, 2, 2, 3, 3, 4]
