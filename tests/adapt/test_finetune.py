"""Which share of a model each subset touches, counted by hand."""

import pytest

from moe.adapt import finetune
from moe.models import encoder_decoder
from tests import tiny
from tests.models import test_encoder_decoder as both

NORMS = (4 * 2 + 1) * 8  # of four layers, and the last
EMBEDDINGS = 32 * 8
ATTENTION = 4 * 4 * 64
FFN = 2 * 2 * 8 * 16
MOE = 2 * (4 * 2 * 8 * 8 + 8 * 4)
ALL = NORMS + EMBEDDINGS + ATTENTION + FFN + MOE


@pytest.mark.parametrize(
    ("subset", "number"),
    [
        ("all", ALL),
        ("non_moe", ALL - MOE),
        ("moe", MOE),
        ("attention", ATTENTION),
        ("ffn", FFN),
    ],
)
def test_a_decoder(subset, number):
    found = finetune.trained(tiny.model(num_layers=4), finetune.SUBSETS[subset])
    assert found == (number, ALL)


def test_the_subsets_that_a_model_has():
    """Not what is empty, and not all of it under another name."""
    assert finetune.subsets_of(tiny.model(num_layers=4)) == list(finetune.SUBSETS)
    sparse = finetune.subsets_of(tiny.model(num_layers=2, moe_every=1))
    assert sparse == ["all", "non_moe", "moe", "attention"]
    assert finetune.subsets_of(tiny.model(experts=None)) == ["all", "attention", "ffn"]


def test_an_encoder_decoder():
    """Both attentions of the decoder belong to it."""
    config = both.config()
    assert isinstance(config, encoder_decoder.EncoderDecoderConfig)
    attention, total = finetune.trained(config, finetune.SUBSETS["attention"])
    assert attention == (2 + 2 + 2) * 4 * 64
    moe, _ = finetune.trained(config, finetune.SUBSETS["moe"])
    rest, _ = finetune.trained(config, finetune.SUBSETS["non_moe"])
    assert moe == MOE and moe + rest == total
