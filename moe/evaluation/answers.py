"""Open answers: is it one of those that are right, and how many words do they share?

As SQuAD counts (Rajpurkar et al. 2016, section 6.1): lower case, without punctuation, articles and
extra spaces; the best over all right answers.
"""

import collections
import re
import string
from collections.abc import Sequence

PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """What is compared."""
    text = text.lower().translate(PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def cut(text: str, stop: Sequence[str]) -> str:
    """What is before the first of these strings."""
    ends = [text.index(mark) for mark in stop if mark in text]
    return text[: min(ends, default=len(text))]


def first(text: str, words: int) -> str:
    """Its first words; 0: all of it."""
    return " ".join(text.split()[:words]) if words else text


def exact_match(answer: str, gold: Sequence[str]) -> float:
    """1 if it is one of them, else 0."""
    return float(any(normalised(answer) == normalised(one) for one in gold))


def f1(answer: str, gold: Sequence[str]) -> float:
    """Harmonic mean of the shares of both answers' words that they have in common."""
    return max(_f1(normalised(answer).split(), normalised(one).split()) for one in gold)


def _f1(ours, theirs):
    if not (ours and theirs):
        return float(ours == theirs)
    common = sum((collections.Counter(ours) & collections.Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs))
