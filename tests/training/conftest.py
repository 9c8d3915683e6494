"""A toy corpus in place of the packaged one, and a run on it that several files look at."""

import functools

import pytest

from moe.data import prepare
from moe.training import loop, optimizer, step
from tests.training import toys


@pytest.fixture(scope="module")
def data():
    return toys.data()


@pytest.fixture(scope="module")
def programs(data):
    """Serves the toy data, and compiles equal steps once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "prepare", lambda config: data)
        patch.setattr(optimizer, "make", functools.cache(optimizer.make))
        patch.setattr(step, "make_train_step", functools.cache(step.make_train_step))
        yield


@pytest.fixture(scope="module")
def whole(programs, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    return toys.Run(workdir, loop.train(toys.run_config(), workdir))
