"""A clock that jumps by years between steps, forth and back, changes nothing but what it says.

(In the middle of a save it may: the library that saves gives up after ten minutes of that clock.
Then the run ends as on a full disk, and goes on.)
"""

import time

import pytest

from moe.training import loop
from tests import tiny
from tests.training import toys

pytestmark = pytest.mark.usefixtures("programs")


def test_the_clock_jumps(whole, tmp_path, monkeypatch):
    now = time.time
    jumps = [0.0]
    monkeypatch.setattr(time, "time", lambda: now() + jumps[-1])

    def jump(step):
        jumps.append(1e8 * (-1) ** step)
        return False

    run = toys.run_config()
    result = loop.train(run, tmp_path, stop=jump)
    assert len(jumps) == toys.STEPS
    assert 0 < result["seconds"] < 1000 and result["test_nll"] == whole.result["test_nll"]
    tiny.assert_equal(toys.Run(tmp_path, result).state(run), whole.state(run))
