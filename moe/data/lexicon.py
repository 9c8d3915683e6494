"""Parts of speech of English words, from the lexicon of Brill's tagger (1992), which a package has.

A word has its most frequent part of speech, whatever the sentence, and an unknown one that of its
form, as Brill's tagger begins; the rules by context that it goes on with are left out.
"""

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from moe.data import packages

PACKAGE = "textblob"
PARTS = (
    *("noun", "verb", "adjective", "adverb", "pronoun", "determiner", "preposition"),
    *("conjunction", "number", "punctuation", "other"),
)
OF_TAGS = {  # beginnings of tags of the Penn Treebank
    **dict.fromkeys(("NN", "NP"), "noun"),
    **dict.fromkeys(("VB", "MD"), "verb"),
    "JJ": "adjective",
    **dict.fromkeys(("RB", "WRB"), "adverb"),
    **dict.fromkeys(("PRP", "PP", "WP", "EX"), "pronoun"),
    **dict.fromkeys(("DT", "PDT", "WDT"), "determiner"),
    **dict.fromkeys(("IN", "TO"), "preposition"),
    "CC": "conjunction",
    "CD": "number",
}
OF_ENDINGS = {  # of unknown words, the first that fits
    "ing": "verb",
    "ed": "verb",
    "ly": "adverb",
    **dict.fromkeys(("able", "ible", "ful", "ous", "ive", "al", "ic", "less"), "adjective"),
}
# Numbers, words with inner hyphens or apostrophes, and every other sign alone.
WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:[-'’][^\W\d_]+)*|[^\w\s]|_")


class Word(NamedTuple):
    """A word of a text, or a sign."""

    start: int  # its first character
    end: int  # after its last
    part: str  # of speech


def read(cache_dir: str | os.PathLike | None = None) -> dict[str, str]:
    """The part of speech of every word of the lexicon; fetches its package if need be."""
    archive = packages.fetch(PACKAGE, cache_dir)
    ((_, content),) = packages.members(archive, "textblob/en/en-lexicon.txt")
    lines = (line.split() for line in content.decode().splitlines() if line[:3] != ";;;")
    return {parts[0]: _part(parts[1]) for parts in lines if len(parts) > 1}


def _part(tag):
    """Of a tag; the longest beginning counts, so that WRB is no W."""
    fits = [start for start in OF_TAGS if tag.startswith(start)]
    return OF_TAGS[max(fits, key=len)] if fits else "other"


def words(text: str, lexicon: Mapping[str, str]) -> list[Word]:
    """The words of a text with their parts of speech.

    Args:
      text: English.
      lexicon: of `read`.
    """
    found = WORD.finditer(text)
    return [Word(*match.span(), part_of(match.group(), lexicon)) for match in found]


def part_of(word: str, lexicon: Mapping[str, str]) -> str:
    """The part of speech of a word, a number or a sign."""
    if word[0].isdigit():
        return "number"
    if not word[0].isalpha():
        return "punctuation"
    known = lexicon.get(word) or lexicon.get(word.lower())
    if known:
        return known
    fits = (part for ending, part in OF_ENDINGS.items() if word.endswith(ending))
    return "noun" if word[0].isupper() else next(fits, "noun")
