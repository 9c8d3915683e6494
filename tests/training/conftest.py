"""A toy corpus in place of the packaged one, and a run on it that several files look at."""

import contextlib
import functools

import pytest

from moe.data import prepare
from moe.training import loop, optimizer, step
from tests.training import toys

make_optimizer = functools.cache(optimizer.make)
make_train_step = functools.cache(step.make_train_step)


@contextlib.contextmanager
def serving(data):
    """Serves the toy data, and compiles equal steps once in a process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "prepare", lambda config: data)
        patch.setattr(optimizer, "make", make_optimizer)
        patch.setattr(step, "make_train_step", make_train_step)
        yield


@pytest.fixture(scope="module")
def data():
    return toys.data()


@pytest.fixture(scope="module")
def programs(data):
    with serving(data):
        yield


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    return _trained(tmp_path_factory.getbasetemp() / "whole")


@functools.cache
def _trained(workdir):
    """Once in a process, whichever folder of tests asks."""
    with serving(toys.data()):
        return toys.Run(workdir, loop.train(toys.run_config(), workdir))
