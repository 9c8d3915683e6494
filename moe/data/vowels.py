"""Vowels of many speakers: the table of Peterson and Barney (1952), as Praat has it.

The words of Jacobs et al. (1991, section 3): four vowels of 75 speakers, the first two formants in
kilohertz, the first 50 speakers for training and the last 25 for tests. Praat's table has 76
speakers, of whom we leave out the last, a child. Each says each vowel twice. Needs the extra
`vowels`, whose package is GPL and is imported here alone.
"""

from typing import NamedTuple

import numpy as np

from moe import schema
from moe.errors import UserError

TABLE = "Create formant table (Peterson & Barney 1952)"
COLUMNS = ("Type", "Sex", "Speaker", "Vowel", "IPA", "F0", "F1", "F2", "F3")
VOWELS = {"i": "i", "ɪ": r"\ic", "ɑ": r"\as", "ʌ": r"\vt"}  # sign of the IPA -> as Praat writes it
SPEAKERS = 75
TRAINING = 50  # of them, the first


class Vowels(NamedTuple):
    """Rows of one speaker's vowel each."""

    formant_RI: np.ndarray  # F1 and F2, kHz
    vowel_R: np.ndarray  # places in `VOWELS`
    speaker_R: np.ndarray  # from 1


def read() -> Vowels:
    """The four vowels of all 75 speakers, in the order of the table.

    Raises:
      UserError: without parselmouth, or if its table is not laid out as expected.
    """
    head, *rows = (line.split("\t") for line in _text().splitlines())
    schema.require(
        tuple(head) == COLUMNS, f"the table has columns {head}, not {COLUMNS}: another Praat?"
    )
    named = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    signs = list(VOWELS.values())
    kept = [row for row in named if row["IPA"] in signs and int(row["Speaker"]) <= SPEAKERS]
    return Vowels(
        np.array([(float(row["F1"]), float(row["F2"])) for row in kept]) / 1000,
        np.array([signs.index(row["IPA"]) for row in kept]),
        np.array([int(row["Speaker"]) for row in kept]),
    )


def _text():
    """The table as Praat lists it, with tabs."""
    try:
        import parselmouth
    except ImportError as error:
        said = "the vowels need Praat: pip install praat-parselmouth, or the extra `vowels`"
        raise UserError(said) from error
    numbered = False
    return parselmouth.praat.call(parselmouth.praat.call(TABLE), "List", numbered)
