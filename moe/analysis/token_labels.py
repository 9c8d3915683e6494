"""Labels of tokens: what experts may specialise in.

A label is an integer of every token, -1 where it has none. Kinds, positions and domains come from
the text alone; parts of speech from a lexicon, of English text alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # who only reads labels needs no tokenizer
    import tokenizers

from moe.data import lexicon
from moe.evaluation.traces import Traces

KINDS = ("word", "capitalised word", "inside a word", "number", "punctuation", "other")
NONE = -1


def spellings(tokenizer: tokenizers.Tokenizer, vocab_size: int) -> list[str]:
    """The text of every id, with the space before it; nothing of those that stand for none."""
    known = tokenizer.get_vocab_size()
    spelled = [tokenizer.decode([i]) for i in range(known)]
    return spelled + [""] * (vocab_size - known)


def kinds(spelled: Sequence[str]) -> np.ndarray:
    """The kind of every id, a place in KINDS, [V]: what its letters alone say."""
    return np.array([KINDS.index(_kind(text)) for text in spelled])


def _kind(text):
    bare = text.strip()
    if not bare or "\ufffd" in bare:
        return "other"
    if bare.isdigit():
        return "number"
    if not any(sign.isalnum() for sign in bare):
        return "punctuation"
    if not bare.isalpha():
        return "other"
    if bare[0].isupper():
        return "capitalised word"
    return "word" if text[0].isspace() else "inside a word"


def is_one(label_N: np.ndarray, value: int) -> np.ndarray:
    """Whether a label has this value, 0 or 1; -1 where there is none."""
    return np.where(label_N == NONE, NONE, label_N == value)


def renumbered(label_N: np.ndarray, kept: Sequence[int]) -> np.ndarray:
    """The place of each label among those that are kept, -1 of others."""
    found_N = np.full(len(label_N), NONE)
    for place, value in enumerate(kept):
        found_N[label_N == value] = place
    return found_N


def positions(position_N: np.ndarray) -> np.ndarray:
    """Octaves of the position: 0, 1, 2 to 3, 4 to 7 and so on."""
    return np.ceil(np.log2(np.asarray(position_N) + 1)).astype(int)


def parts_of_speech(
    traces: Traces, spelled: Sequence[str], known: Mapping[str, str], domains: Sequence[int]
) -> np.ndarray:
    """The part of speech of the word that a token is of, a place in `lexicon.PARTS`.

    Args:
      traces: whole documents, or parts of them, in the order of reading.
      spelled: of `spellings`.
      known: of `lexicon.read`.
      domains: of English text; tokens of other domains have no label, nor has white space.
    """
    found_N = np.full(len(traces.token_N), NONE)
    ends = np.flatnonzero(np.diff(traces.document_N, append=NONE))
    starts = np.append(0, ends[:-1] + 1)
    for first, last in zip(starts, ends, strict=True):
        own = slice(first, last + 1)
        if traces.domain_N[first] in domains:
            found_N[own] = _parts([spelled[i] for i in traces.token_N[own]], known)
    return found_N


def _parts(texts, known):
    """Of the tokens of one text, each by the word in which its first letter or sign lies."""
    part_C = np.full(sum(map(len, texts)) + 1, NONE)
    for word in lexicon.words("".join(texts), known):
        part_C[word.start : word.end] = lexicon.PARTS.index(word.part)
    starts = np.cumsum([0, *map(len, texts[:-1])])
    spaces = [len(text) - len(text.lstrip()) for text in texts]
    filled = np.array([bool(text.strip()) for text in texts])
    return np.where(filled, part_C[np.minimum(starts + spaces, len(part_C) - 1)], NONE)
