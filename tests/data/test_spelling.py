"""What tokens spell is the text that they were cut from."""

import tokenizers
from tokenizers import decoders, models

from moe.data import spelling, tokenizer

TEXT = "the router sends tokens to experts; déjà vu, <doc> 漢字 🙂\n\tx\x00\xa0"


def test_the_bytes_of_byte_level_tokens():
    trained = tokenizer.train([TEXT] * 9, vocab_size=280, max_bytes=10_000)
    found = spelling.spelled(trained)
    ids = trained.encode(TEXT, add_special_tokens=False).ids
    assert b"".join(found[i] for i in ids) == TEXT.encode()
    assert sorted(found) == list(range(280)) and found[tokenizer.DOC_ID] == b"<doc>"
    assert {bytes([byte]) for byte in range(256)} <= {*found.values()}


def test_the_bytes_of_words():
    words = {"<unk>": 0, "▁the": 1, "<0x0A>": 2, "é": 3}
    model = tokenizers.Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    model.decoder = decoders.Metaspace()
    assert spelling.spelled(model) == {0: b"<unk>", 1: b" the", 2: b"\n", 3: "é".encode()}
