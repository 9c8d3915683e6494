"""Which split a document belongs to: a pure function of its text.

So a split never changes when documents are added, and equal documents, even of different domains,
always land together: no document of the test split is met in training. Near-copies are not
looked for; a domain whose documents copy each other leaves them out (`corpora`).
"""

import hashlib

SHARES = {"train": 94, "validation": 3, "test": 3}  # percent


def digest(text: str) -> bytes:
    """SHA-256 of the text's UTF-8 bytes. Sorting by it is a shuffle that is the same everywhere."""
    return hashlib.sha256(text.encode()).digest()


def split_of(text: str) -> str:
    """The name of the split that the document `text` belongs to."""
    percentile = int.from_bytes(digest(text)[:8]) % 100
    for name, share in SHARES.items():
        if percentile < share:
            return name
        percentile -= share
    raise AssertionError("shares do not add up to 100 percent")
