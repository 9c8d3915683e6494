"""The toy run of tests/training, to be damaged; and processes that train it, to be hurt."""

import contextlib
import shutil

import pytest

from tests.faults import victim
from tests.training.conftest import data, programs, whole

__all__ = ["data", "programs", "runs", "whole"]


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    with contextlib.closing(victim.Nursery(tmp_path_factory.mktemp("runs"))) as found:
        yield found


@pytest.fixture
def workdir(whole, tmp_path):
    """A run that ended, but for its result."""
    shutil.copytree(whole.workdir, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    return tmp_path / "run"
