"""Whole numbers times a scale: near, in every expert, and as many bytes as said."""

import sys

import numpy as np
import pytest

from moe.adapt import banks, integers
from moe.adapt.banks import Trained
from tests import tiny
from tests.adapt import cases

LEVELS = {"int8": 127, "int4": 7}


@pytest.fixture(scope="module")
def trained():
    """A model in which 32 inputs share a scale."""
    experts = {"d_ff": 64}
    return cases.trained(experts=experts, activation="swiglu", d_model=32, d_head=16)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_every_weight_is_near(trained, kind):
    """By at most half a step of its scale, which bfloat16 rounds by 1 in 256."""
    made = integers.quantised(trained, kind)
    tile = integers.KINDS[kind].tile
    for name, w in banks.of(trained)[0]["experts"].items():
        got = np.asarray(banks.of(made)[0]["experts"][name])
        split = np.asarray(w).reshape(*w.shape[:2], -1, tile or w.shape[2], w.shape[3])
        step = np.abs(split).max(3, keepdims=True) / LEVELS[kind]
        error = np.abs(got.reshape(split.shape) - split)
        assert (error <= step * (0.5 + LEVELS[kind] / 200)).all()
        assert (error.max((2, 3, 4)) > 0).all(), "an expert was left out"
    assert 0 < np.abs(cases.logits(made) - cases.logits(trained)).max() < 1.0


def test_four_bits_are_worse_than_eight(trained):
    want = cases.logits(trained)
    errors = [np.abs(cases.logits(integers.quantised(trained, k)) - want).mean() for k in LEVELS]
    assert errors[0] < errors[1] / 4


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_bytes_cover_every_expert(trained, kind):
    weights = 2 * 8 * 3 * 32 * 64
    scales = 2 * 8 * ((64 + 64 + 32) if kind == "int8" else (64 + 64 + 2 * 32))
    assert integers.size(trained, kind) == weights * integers.KINDS[kind].bits // 8 + 2 * scales


def test_on_a_mesh(trained):
    want = cases.logits(integers.quantised(trained, "int8"))
    with tiny.on("2x4x1"):
        there = Trained(trained.model, tiny.params(trained.model), {})
        got = cases.logits(integers.quantised(there, "int8"))
    tiny.assert_close(got, want, rtol=1e-3, atol=1e-4)


def test_what_cannot_be(trained, monkeypatch):
    assert [integers.tile_of(n, "int4") for n in (64, 92, 8, 37)] == [32, 23, 8, 1]
    with pytest.raises(ValueError, match="kind='int2' is not one of"):
        integers.quantised(trained, "int2")
    monkeypatch.setitem(sys.modules, "qwix", None)
    with pytest.raises(ValueError, match="int8 and int4 need qwix"):
        integers.quantised(trained, "int8")
