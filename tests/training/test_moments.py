"""Adam's moments of another run: each by the rule of its parameter, or refused."""

import contextlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe import paths, sharding
from moe.errors import UserError
from moe.training import checkpoint, loop, starting
from tests import tiny
from tests.training import test_starting as runs
from tests.training import toys

DATA = toys.data()


def moved(state):
    """A state as after some steps: no array of its optimizer is zero."""
    optimizer = jax.tree.map(lambda x: x + 1 + jnp.arange(x.size).reshape(x.shape), state.optimizer)
    return state._replace(step=jnp.int32(3), optimizer=optimizer)


def test_moments_come_by_the_rules_of_their_parameters(tmp_path):
    """Experts get those of the feed-forward, a drawn router has none; the schedule begins anew."""
    parent, run = runs.dense_run(), toys.run_config()
    with sharding.on(loop.mesh_of(parent), parent.mesh.zero):
        theirs = moved(starting.scratch(parent, DATA))
        with contextlib.closing(checkpoint.Checkpoints(tmp_path / "dense")) as checkpoints:
            checkpoints.save(3, theirs, 1.0)
    init = {"workdir": str(tmp_path / "dense"), "rules": runs.UPCYCLE, "optimizer": True}
    run = run.replace(init_from=init)
    starting.check(run, DATA)
    drawn, found = runs.start(run, tmp_path, DATA)
    got, had = (tiny.host(state.optimizer[1]) for state in (found, theirs))
    for part in ("mu", "nu"):
        moe, ffn = (getattr(x, part)["block"]["layer_0"] for x in (got, had))
        want = np.broadcast_to(ffn["ffn"]["w_in"][:, None], moe["moe"]["experts"]["w_in"].shape)
        np.testing.assert_array_equal(moe["moe"]["experts"]["w_in"], want)
        np.testing.assert_array_equal(moe["attention"]["w_q"], ffn["attention"]["w_q"])
        assert not moe["moe"]["router"].any()
    assert got.count == had.count == 1
    assert found.optimizer[3].count == 0
    for path, leaf in paths.named(drawn).items():
        assert paths.named(found)[path].sharding == leaf.sharding, path
    origins = json.loads((tmp_path / "init.json").read_text())["origins"]
    said = origins["optimizer/1/mu/block/layer_0/moe/experts/w_in"]
    assert said == {"rule": "tile", "saved": "optimizer/1/mu/block/layer_0/ffn/w_in"}
    starting.check(run.replace(optimizer={"frozen": ("embed",)}), DATA)
    with pytest.raises(UserError, match="set optimizer.name='adamw'"):
        starting.check(run.replace(optimizer={"name": "adafactor"}), DATA)


def test_moments_that_are_not_there(tmp_path):
    """The optimizer of a model that was never trained has none, and frozen parameters have none."""
    runs.save(runs.dense_run(), tmp_path / "dense", DATA, seed=5)
    init = {"workdir": str(tmp_path / "dense"), "rules": runs.UPCYCLE, "optimizer": True}
    run = toys.run_config(init_from=init)
    with pytest.raises(UserError, match="the checkpoint's optimizer has not begun"):
        runs.start(run, tmp_path, DATA)
    frozen = runs.dense_run().replace(optimizer={"frozen": ("embed",)})
    runs.save(frozen, tmp_path / "frozen", DATA, seed=5)
    run = run.replace(init_from={"workdir": str(tmp_path / "frozen")})
    with pytest.raises(UserError, match="no optimizer/inner_states/.*/embed: it was"):
        starting.check(run, DATA)
