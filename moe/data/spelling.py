"""What the ids of a tokenizer spell, in bytes.

Not in `moe.data.tokenizer`, since prepared data is made anew whenever that file changes.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imported where it is used: who only reads ids does without
    import tokenizers


def spelled(tokenizer: tokenizers.Tokenizer) -> dict[int, bytes]:
    """The bytes of text that each id stands for; of a special or added token, those of its name."""
    added = tokenizer.get_added_tokens_decoder()
    parts = json.loads(tokenizer.to_str())
    byte_level = '"ByteLevel"' in json.dumps([parts["pre_tokenizer"], parts["decoder"]])
    own = _of_letters if byte_level else _of_words
    vocabulary = tokenizer.get_vocab().items()
    return {i: token.encode() if i in added else own(token) for token, i in vocabulary}


def _letters():
    """The byte that each letter of byte-level BPE stands for.

    A letter that can be seen stands for itself, those from 256 on for all other bytes in turn.
    """
    seen = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    unseen = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + i): b for i, b in enumerate(unseen)}


LETTERS = _letters()


def _of_letters(token):
    return bytes(LETTERS[letter] for letter in token)


def _of_words(token):
    """Of tokens that are text, in which \u2581 is a space and <0x0A> a byte."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace("\u2581", " ").encode()
