"""The tokenizer: one trained here, or any tokenizer.json of the `tokenizers` library.

Trained here it is byte-level BPE (Sennrich et al. 2016, https://arxiv.org/abs/1508.07909, over
bytes as in GPT-2): every text is encodable, nothing is unknown, and a token is a string of bytes.
One special token marks where a document starts and so also where the one before it ends: here it
is <doc>, with id 0.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from moe.errors import UserError

if TYPE_CHECKING:  # imported where it is used: who only reads ids does without
    import tokenizers

DOC = "<doc>"
DOC_ID = 0  # of <doc> in a tokenizer that is trained here
SMALLEST = 257  # 256 bytes and <doc>
CHECKED, CHECKED_LENGTH = 50, 1000  # documents, and characters of each


def train(texts: Iterable[str], *, vocab_size: int, max_bytes: int) -> tokenizers.Tokenizer:
    """A tokenizer of exactly `vocab_size` ids, trained on the first `max_bytes` bytes of `texts`.

    The same texts give the same tokenizer. Give the texts in shuffled order, so that the first ones
    are a fair sample.

    Raises:
      UserError: `vocab_size` is below 257, or above what so little text has pairs for.
    """
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    if vocab_size < SMALLEST:
        raise UserError(f"vocab_size={vocab_size}: bytes and {DOC} alone need {SMALLEST}.")
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[DOC],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_head(texts, max_bytes), trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise UserError(
            f"vocab_size={vocab_size} is too large: the text given to the tokenizer supports only "
            f"{tokenizer.get_vocab_size()} tokens. Lower vocab_size or raise tokenizer_bytes."
        )
    return _plain(tokenizer)


def _head(texts: Iterable[str], max_bytes: int) -> Iterator[str]:
    """The first `max_bytes` bytes of `texts`; a character is not cut in two."""
    for text in texts:
        encoded = text.encode()
        yield encoded[:max_bytes].decode(errors="ignore")
        max_bytes -= len(encoded)
        if max_bytes <= 0:
            return


def _plain(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Encodes whole texts, and a "<doc>" that a document happens to spell as ordinary text."""
    tokenizer.encode_special_tokens = True  # which JSON does not keep
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def save(tokenizer: tokenizers.Tokenizer, path: str | os.PathLike) -> None:
    """Writes the tokenizer as JSON."""
    tokenizer.save(os.fspath(path))


def load(path: str | os.PathLike) -> tokenizers.Tokenizer:
    """Reads a tokenizer.json.

    Raises:
      UserError: if it is none.
    """
    import tokenizers

    try:
        return _plain(tokenizers.Tokenizer.from_file(os.fspath(path)))
    except Exception as error:  # the library raises no narrower kind
        raise UserError(f"{path} is no tokenizer.json of `tokenizers`: {error}") from error


def document_id(tokenizer: tokenizers.Tokenizer, name: str, path: str | os.PathLike) -> int:
    """The id of the special token that starts a document.

    Args:
      path: of the tokenizer, for the error.

    Raises:
      UserError: if it has no such special token; those that it has are named.
    """
    special = {token.content: i for i, token in _added(tokenizer).items() if token.special}
    if name not in special:
        has = ", ".join(map(repr, sorted(special))) or "none: add one to it"
        raise UserError(
            f"{path} has no special token {name!r} to stand before every document: name one of its"
            f" own in data.doc_token. It has {has}."
        )
    return special[name]


def check_size(tokenizer: tokenizers.Tokenizer, vocab_size: int, path: str | os.PathLike) -> None:
    """Refuses a vocabulary that is too small; in a larger one the last ids stand for nothing.

    Args:
      path: of the tokenizer, for the error.

    Raises:
      UserError: with the size that is needed.
    """
    needed = max(tokenizer.get_vocab().values(), default=0) + 1
    if vocab_size < needed:
        raise UserError(
            f"data.vocab_size={vocab_size} is too small for {path}, whose ids go up to"
            f" {needed - 1}: set data.vocab_size and model.vocab_size to {needed}, or more."
        )


def check_text(
    tokenizer: tokenizers.Tokenizer, texts: Iterable[str], path: str | os.PathLike
) -> None:
    """Refuses a tokenizer that cannot encode text, or that changes it, on the first of the texts.

    Args:
      texts: documents.
      path: of the tokenizer, for the error.

    Raises:
      UserError: with the text, and what became of it.
    """
    for text in itertools.islice(texts, CHECKED):
        start = text[:CHECKED_LENGTH]
        try:
            again = tokenizer.decode(tokenizer.encode(start, add_special_tokens=False).ids)
        except Exception as error:  # the library raises no narrower kind
            raise UserError(f"{path} cannot encode {start[:50]!r}: {error}") from error
        if again != start:
            place = len(os.path.commonprefix([start, again]))
            raise UserError(
                f"{path} does not keep the text: {start[place:][:40]!r} comes back as"
                f" {again[place:][:40]!r}. Use one that does not normalise text and knows every"
                " word, such as byte-level BPE"
            )


def _added(tokenizer):
    """Tokens beside the model's own, by id; among them are the special ones."""
    return tokenizer.get_added_tokens_decoder()


def token_bytes(tokenizer: tokenizers.Tokenizer, vocab_size: int) -> np.ndarray:
    """int32 [V]: the number of UTF-8 bytes that each id stands for; 0 for special tokens.

    Summed over a document's ids it is the length of the document, so that a loss in nats per token
    becomes bits per byte, which compares across vocabularies.
    """
    added = _added(tokenizer)
    spelled = _spelling(tokenizer)
    lengths = np.zeros(vocab_size, np.int32)
    for token, index in tokenizer.get_vocab().items():
        own = index not in added
        lengths[index] = spelled(token) if own else len(token.encode()) * (not added[index].special)
    return lengths


def _spelling(tokenizer):
    """The function from a token, as the vocabulary spells it, to its bytes of text."""
    parts = json.loads(tokenizer.to_str())
    if '"ByteLevel"' in json.dumps([parts["pre_tokenizer"], parts["decoder"]]):
        return len  # one character stands for one byte
    return _bytes_in_words


def _bytes_in_words(token: str) -> int:
    """Of tokens that are text, in which \u2581 is a space and <0x0A> a byte."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return 1
    return len(token.replace("\u2581", " ").encode())
