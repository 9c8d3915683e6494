"""From documentation strings to prose: tags stripped, and every sentence kept once.

Generated API references repeat themselves (one sentence of the cloud documents occurs thousands of
times), and what repeats across a split would be remembered, not predicted.
"""

import html
import re

_BLOCK = re.compile(
    r"</?(?:p|li|ul|ol|dl|dt|dd|note|important|div|br|pre|h\d|table|tr|td|th|section)\b[^<>]*>",
    re.I,
)
_TAG = re.compile(r"</?[a-zA-Z!][^<>]*>")
_GAP = re.compile(r"[ \t]+([.,;:)])")
# A sentence ends at [.!?] before a capital, a digit, a quote or a bracket; an initial, as in
# "N. Virginia", ends nothing.
_SENTENCE_END = re.compile(r"(?<=[.!?])(?<!\b[A-Z]\.)\s+(?=[\"'`(\[A-Z0-9])")


def strip_tags(markup: str) -> str:
    """HTML-like markup as plain text, a new line at every block."""
    return _GAP.sub(r"\1", html.unescape(_TAG.sub("", _BLOCK.sub("\n", markup))))


def sentences(line: str) -> list[str]:
    """The sentences of one line, white space collapsed."""
    return _SENTENCE_END.split(" ".join(line.split()))


def unseen(lines: str, seen: set[str]) -> str:
    """The lines less the sentences that are in `seen`, to which the others are added."""
    kept = []
    for line in lines.splitlines():
        new = [s for s in dict.fromkeys(sentences(line)) if s and s not in seen]
        seen.update(new)
        if new:
            kept.append(" ".join(new))
    return "\n".join(kept)
