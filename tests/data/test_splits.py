"""A document's split depends on its text alone, and the shares are as stated."""

import collections

import pytest

from moe.data import splits


def test_shares():
    assert sum(splits.SHARES.values()) == 100
    counts = collections.Counter(splits.split_of(f"document {i}") for i in range(20_000))
    for split, share in splits.SHARES.items():
        assert counts[split] / 20_000 == pytest.approx(share / 100, rel=0.1)


def test_the_rule_never_changes():
    """Literals: a change here would move documents between splits of published results."""
    assert splits.digest("a").hex().startswith("ca978112ca1bbdca")
    assert int("ca978112ca1bbdca", 16) % 100 == 50
    assert splits.split_of("a") == "train"
    assert splits.split_of("document 17") == "validation"
    assert splits.split_of("document 13") == "test"


def test_bad_shares_are_noticed(monkeypatch):
    monkeypatch.setattr(splits, "SHARES", {"train": 0})
    with pytest.raises(AssertionError):
        splits.split_of("a")
