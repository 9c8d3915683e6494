"""What tests of studies share: toy data in place of the packaged corpus, and one device."""

import jax
import numpy as np
import pytest

from experiments import study
from moe import sharding
from moe.data import prepared
from moe.training import loop
from tests.training.conftest import serving


@pytest.fixture
def data(tmp_path):
    """A prepared directory of random tokens, in place of the packaged corpus; equal steps once."""
    rng = np.random.default_rng(0)
    with prepared.writing(tmp_path / "data") as directory:
        for split in ("train", "validation", "test"):
            ids = rng.integers(0, 300, 4000).astype(np.uint16)
            np.save(directory / f"{split}.npy", ids)
            np.save(directory / f"{split}_domain.npy", np.zeros(4000, np.uint8))
        np.save(directory / "token_bytes.npy", np.ones(300, np.int32))
        (directory / "tokenizer.json").write_text("{}")
        prepared.write_meta(
            directory,
            {"format": prepared.FORMAT, "fingerprint": "toy", "source": ["toy"], "splits": {}},
        )
    opened = prepared.load(tmp_path / "data")
    with serving(opened):
        yield opened


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The folder of a study on one device, which compiles sooner than eight."""
    one = sharding.make_mesh(1, 1, devices=jax.devices()[:1])
    monkeypatch.setattr(loop, "mesh_of", lambda run: one)
    monkeypatch.setattr(study, "ROUNDS", 2)
    return tmp_path / "study"
