"""Bytes in, bytes out: nothing unknown, nothing lost, the same every time."""

import numpy as np
import pytest

from moe.data import tokenizer

TEXTS = [
    f"the router sends token {i} to expert {i % 8}; déjà vu, <doc> 漢字 🙂\n\tx" for i in range(99)
]


@pytest.fixture(scope="module")
def trained():
    return tokenizer.train(TEXTS, vocab_size=320, max_bytes=100_000)


def test_ids(trained):
    assert trained.get_vocab_size() == 320
    assert trained.token_to_id("<doc>") == tokenizer.DOC_ID == 0
    assert sorted(trained.get_vocab().values()) == list(range(320))


@pytest.mark.parametrize("text", [*TEXTS[:2], "", "Ω≈ç√ \x00 never seen", " leading", "a\r\n"])
def test_round_trip_and_byte_counts(trained, text):
    ids = trained.encode(text, add_special_tokens=False).ids
    assert trained.decode(ids, skip_special_tokens=False) == text
    assert tokenizer.token_bytes(trained, 320)[ids].sum() == len(text.encode())
    assert tokenizer.DOC_ID not in ids


def test_token_bytes(trained):
    lengths = tokenizer.token_bytes(trained, 320)
    assert lengths.shape == (320,) and lengths.dtype == np.int32
    assert lengths[0] == 0 and lengths[1:].min() == 1
    assert lengths[trained.token_to_id("Ġexpert")] == 7
    assert (lengths == 1).sum() == 256


def test_a_document_that_spells_the_marker_after_loading(trained, tmp_path):
    tokenizer.save(trained, tmp_path / "t.json")
    loaded = tokenizer.load(tmp_path / "t.json")
    assert loaded.to_str() == trained.to_str()
    for one in (trained, loaded):
        batch = one.encode_batch_fast(["x<doc>y"], add_special_tokens=False)
        assert 0 not in batch[0].ids
        assert one.decode(batch[0].ids) == "x<doc>y"


def test_deterministic(trained):
    again = tokenizer.train(iter(TEXTS), vocab_size=320, max_bytes=100_000)
    assert again.to_str() == trained.to_str()


def test_only_the_first_bytes_train():
    first = tokenizer.train(["abab" * 50, "cdcd" * 50], vocab_size=258, max_bytes=200)
    assert "ab" in first.get_vocab() and "cd" not in first.get_vocab()
    assert list(tokenizer._head(["ab", "é", "cd"], 3)) == ["ab", ""]
    assert list(tokenizer._head(["ab", "é", "cd"], 5)) == ["ab", "é", "c"]
    assert list(tokenizer._head(["ab", "cd"], 2)) == ["ab"]


def test_vocabulary_too_small():
    with pytest.raises(ValueError, match="need 257"):
        tokenizer.train(TEXTS, vocab_size=256, max_bytes=1000)


def test_vocabulary_too_large_for_the_text():
    with pytest.raises(ValueError, match="supports only 259 tokens"):
        tokenizer.train(["abab"], vocab_size=5000, max_bytes=1000)


def test_bytes_of_tokens_that_are_words():
    assert [tokenizer._bytes_in_words(t) for t in ("\u2581the", "<0x0A>", "\u00e9", "<0x>")] == [
        4, 1, 2, 4,
    ]  # fmt: skip
