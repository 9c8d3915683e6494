"""How much a text is like a reference: chrF, by characters (Popovic 2015), as sacrebleu counts it.

F score of the character n-grams, n from 1 to 6, that both share, in percent; recall counts twice.
It goes by no model, needs no words, and is of use in texts of a few words, where BLEU is mostly 0.
"""

import functools
from collections.abc import Sequence

import numpy as np

from moe.errors import UserError


@functools.cache
def _metric():
    try:
        from sacrebleu import metrics
    except ImportError as error:
        said = "chrF needs sacrebleu: pip install sacrebleu, or the extra `blend`"
        raise UserError(said) from error
    return metrics.CHRF()


def chrf(texts: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """chrF of each text, from 0 to 100.

    Args:
      texts: what is judged.
      references: one for each.

    Raises:
      UserError: without sacrebleu.
    """
    pairs = zip(texts, references, strict=True)
    return np.array([_metric().sentence_score(text, [one]).score for text, one in pairs])
