"""Byte-level BPE: every text is encodable, nothing is unknown, and a token is a string of bytes.

Sennrich et al. 2016 (https://arxiv.org/abs/1508.07909), over bytes as in GPT-2. The one special
token, <doc> with id 0, marks where a document starts and so also where the one before it ends.
"""

import os
from collections.abc import Iterable, Iterator

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

DOC = "<doc>"
DOC_ID = 0
SMALLEST = 257  # 256 bytes and <doc>


def train(texts: Iterable[str], *, vocab_size: int, max_bytes: int) -> tokenizers.Tokenizer:
    """A tokenizer of exactly `vocab_size` ids, trained on the first `max_bytes` bytes of `texts`.

    The same texts give the same tokenizer. Give the texts in shuffled order, so that the first ones
    are a fair sample.

    Raises:
      ValueError: `vocab_size` is below 257, or above what so little text has pairs for.
    """
    if vocab_size < SMALLEST:
        raise ValueError(f"vocab_size={vocab_size}: bytes and {DOC} alone need {SMALLEST}.")
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
        raise ValueError(
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
    """Makes a "<doc>" that a document happens to spell ordinary text; JSON does not keep this."""
    tokenizer.encode_special_tokens = True
    return tokenizer


def save(tokenizer: tokenizers.Tokenizer, path: str | os.PathLike) -> None:
    """Writes the tokenizer as JSON."""
    tokenizer.save(os.fspath(path))


def load(path: str | os.PathLike) -> tokenizers.Tokenizer:
    """Reads what `save` wrote."""
    return _plain(tokenizers.Tokenizer.from_file(os.fspath(path)))


def token_bytes(tokenizer: tokenizers.Tokenizer) -> np.ndarray:
    """int32 [V]: the number of UTF-8 bytes that each id stands for; 0 for <doc>.

    Summed over a document's ids it is the length of the document, so that a loss in nats per token
    becomes bits per byte, which compares across vocabularies.
    """
    lengths = np.zeros(tokenizer.get_vocab_size(), np.int32)
    for token, index in tokenizer.get_vocab().items():
        lengths[index] = 0 if index == DOC_ID else len(token)  # one character stands for one byte
    return lengths
