"""Data made with a tokenizer that is given."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
import tokenizers

from moe.data import batches, builder, prepare, tokenizer
from tests.data.toys import config


def given(tmp_path, name="t.json", special=("<pad>", "<|endoftext|>"), **changes):
    """A config with a byte-level tokenizer.json, whose separator is not the first id."""
    words = tokenizers.Tokenizer(tokenizers.models.BPE())
    words.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = tokenizers.decoders.ByteLevel()
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=290, initial_alphabet=alphabet, special_tokens=list(special)
    )
    words.train_from_iterator(["expert router token gate"] * 9, trainer)
    words.enable_truncation(4)  # which prepared text must not suffer
    words.save(str(tmp_path / name))
    fields = {"tokenizer": str(tmp_path / name), "doc_token": "<|endoftext|>"}
    return config(**fields | changes)


def test_a_tokenizer_that_is_given(cache, tmp_path):
    data = prepare.prepare(given(tmp_path))
    assert data.doc_id == data.meta["doc_id"] == 1 and data.vocab_size == 300
    assert data.tokenizer_path.read_bytes() == (tmp_path / "t.json").read_bytes()
    assert data.token_bytes[:2].tolist() == [0, 0] and not data.token_bytes[290:].any()
    english = builder.documents("encyclopedia_en", cache_dir=cache)
    words = tokenizer.load(data.tokenizer_path)
    for split, counts in data.meta["splits"].items():
        ids = data.tokens[split]
        starts = np.flatnonzero(ids == 1)
        assert starts[0] == 0 and len(starts) == counts["documents"]
        assert counts["bytes"] == data.token_bytes[ids].sum()
        texts = {words.decode(part[1:]) for part in np.split(ids, starts[1:])}
        assert set(english[split]) <= texts
    (batch,) = batches.eval_batches(data, "test", batch_size=1, seq_len=64, max_batches=1)
    assert batch.segment_BT.max() == 1 + np.count_nonzero(batch.tokens_BT[0, 1:] == 1)


def test_the_tokenizer_and_not_its_path_is_part_of_the_data(cache, tmp_path, data):
    first = prepare.prepare(given(tmp_path))
    assert first.path != data.path
    assert prepare.prepare(given(tmp_path, name="moved.json")).path == first.path
    other = given(tmp_path, special=("<|endoftext|>", "<pad>"))
    assert prepare.prepare(other).path != first.path
    with pytest.raises(ValueError, match="was prepared with tokenizer='"):
        prepare.prepare(dataclasses.replace(other, prepared_dir=str(first.path)))
    with pytest.raises(ValueError, match="was prepared with tokenizer=''"):
        prepare.prepare(dataclasses.replace(other, prepared_dir=str(data.path)))


def test_a_tokenizer_that_does_not_fit(cache, tmp_path):
    with pytest.raises(ValueError, match="t.json' is no file: give the path"):
        prepare.prepare(config(tokenizer=str(tmp_path / "t.json")))
    fits = given(tmp_path)
    size = tokenizer.load(tmp_path / "t.json").get_vocab_size()
    message = f"vocab_size={size - 1} is too small .* up to {size - 1}: .* to {size}, or more"
    with pytest.raises(ValueError, match=message):
        prepare.prepare(dataclasses.replace(fits, vocab_size=size - 1))
    with pytest.raises(ValueError, match=r"no special token '<doc>' .* '<pad>', '<\|endoftext\|>'"):
        prepare.prepare(dataclasses.replace(fits, doc_token="<doc>"))
    (tmp_path / "t.json").write_text("{}")
    with pytest.raises(ValueError, match="t.json is no tokenizer.json of `tokenizers`"):
        prepare.prepare(fits)


def test_a_tokenizer_that_loses_text_is_refused(cache, tmp_path):
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<doc>": 0, "[UNK]": 1}, "[UNK]"))
    words.add_special_tokens(["<doc>"])
    words.save(str(tmp_path / "t.json"))
    with pytest.raises(ValueError, match="does not keep the text: .* comes back as '.UNK"):
        prepare.prepare(config(tokenizer=str(tmp_path / "t.json")))


def test_a_tokenizer_that_changes_text_is_refused(cache, tmp_path):
    """To as many bytes."""
    path = pathlib.Path(given(tmp_path).tokenizer)
    changed = json.loads(path.read_text())
    changed["normalizer"] = {"type": "Lowercase"}
    path.write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="t.json does not keep the text: '[A-Z].* comes back as"):
        prepare.prepare(given_again(path))


def test_a_tokenizer_without_words_is_refused(cache, tmp_path):
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 1}, "[UNK]"))
    words.add_special_tokens(["<doc>"])
    words.save(str(tmp_path / "t.json"))
    with pytest.raises(ValueError, match="t.json cannot encode '.*: WordLevel error"):
        prepare.prepare(config(tokenizer=str(tmp_path / "t.json")))


def given_again(path):
    return config(tokenizer=str(path), doc_token="<|endoftext|>")


def test_data_prepared_before_there_was_a_choice_of_tokenizer(data):
    meta = json.loads((data.path / "meta.json").read_text())
    for name in ("tokenizer", "doc_token", "doc_id", "checksum"):
        del meta[name]
    (data.path / "meta.json").write_text(json.dumps(meta))
    assert prepare.prepare(config(prepared_dir=str(data.path))).doc_id == 0
