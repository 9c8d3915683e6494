"""The toy run of tests/training, to be damaged; and processes that train it, to be hurt."""

import contextlib

import pytest

from tests.faults import victim
from tests.training.conftest import data, programs, whole

__all__ = ["data", "programs", "runs", "whole"]


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    with contextlib.closing(victim.Nursery(tmp_path_factory.mktemp("runs"))) as found:
        yield found
