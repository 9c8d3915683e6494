"""A run starts from its own checkpoint, else from another run's, else from scratch."""

import contextlib
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe import flops, initialisation, models, paths, sharding
from moe.data import prepare
from moe.errors import UserError
from moe.training import checkpoint, estimate, loop, room, signals, starting, step, workdirs
from tests import tiny
from tests.training import toys

UPCYCLE = (
    (r"(.*)/moe/experts/(.*)", "tile", r"\1/ffn/\2"),
    (r".*/router", "fresh"),
    (r"router_state/.*", "fresh"),
    (r".*", "take"),
)
SIZES = {"vocab_size": toys.V, "num_layers": 1, "moe_every": 1}

pytestmark = pytest.mark.usefixtures("programs")


def dense_run():
    return toys.run_config(model={"experts": None, "d_ff": 8})


@pytest.fixture(scope="module")
def dense(tmp_path_factory, data):
    """The folder of a dense run, which need not have learned anything."""
    workdir = tmp_path_factory.mktemp("dense")
    save(dense_run(), workdir, data, seed=5)
    (workdir / "data.json").write_text(json.dumps(workdirs.identity(data)))
    return workdir


def save(run, workdir, data, seed, step=3):
    run = run.replace(train={"seed": seed})
    with (
        sharding.on(loop.mesh_of(run), run.mesh.zero),
        contextlib.closing(checkpoint.Checkpoints(workdir)) as checkpoints,
    ):
        checkpoints.save(step, starting.scratch(run, data), 1.0)


def saved(workdir):
    """The parameters in a folder, by path."""
    with contextlib.closing(checkpoint.Checkpoints(workdir)) as checkpoints:
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        return checkpoints.load_parameters(dict.fromkeys(checkpoints.parameters(), device))


def start(run, workdir, data):
    with sharding.on(loop.mesh_of(run), run.mesh.zero):
        drawn = starting.scratch(run, data)
        return drawn, starting.start(run, workdir, drawn, data)


def shapes(run, data):
    with sharding.on(loop.mesh_of(run), run.mesh.zero):
        return starting.shapes(run, data)


def layout(state):
    """What each array is and where it lies, by path."""
    return {path: (x.shape, x.dtype, x.sharding) for path, x in paths.named(state).items()}


@pytest.mark.parametrize("zero", [False, True])
def test_a_dense_model_becomes_experts(dense, tmp_path, data, zero):
    """On a mesh of 2 x 4 every expert is the feed-forward, and lies where an expert lies."""
    run = toys.run_config(init_from={"workdir": str(dense), "rules": UPCYCLE}, mesh={"zero": zero})
    drawn, state = start(run, tmp_path, data)
    assert layout(drawn) == layout(shapes(run, data))
    found = paths.named(state.params)
    theirs = saved(dense)
    for name in ("w_in", "w_out"):
        experts = found[f"block/layer_0/moe/experts/{name}"]
        want = np.broadcast_to(theirs[f"block/layer_0/ffn/{name}"][:, None], experts.shape)
        np.testing.assert_array_equal(experts, want)
    router = "block/layer_0/moe/router"
    np.testing.assert_array_equal(found[router], paths.named(drawn.params)[router])
    np.testing.assert_array_equal(found["embed"], theirs["embed"])
    assert int(state.step) == 0
    for path, leaf in paths.named(drawn).items():
        assert paths.named(state)[path].sharding == leaf.sharding, path
    record = json.loads((tmp_path / "init.json").read_text())
    assert record["step"] == 3
    assert record["origins"]["embed"] == {"rule": "take", "saved": "embed"}


def test_the_same_model_starts_with_all_of_it(tmp_path, data):
    """The routers' state travels as well, and the optimizer's does not."""
    other = tmp_path / "other"
    run = toys.run_config()
    with sharding.on(loop.mesh_of(run), run.mesh.zero):
        state = starting.scratch(run, data)
        state = state._replace(
            step=jnp.int32(9), router_state=jax.tree.map(lambda x: x + 2, state.router_state),
            params=jax.tree.map(lambda x: x * 2, state.params),
        )  # fmt: skip
        with contextlib.closing(checkpoint.Checkpoints(other)) as checkpoints:
            checkpoints.save(9, state, 1.0)
    drawn, found = start(toys.run_config(init_from={"workdir": str(other)}), tmp_path, data)
    tiny.assert_equal(tiny.host(found.params), tiny.host(state.params))
    tiny.assert_equal(tiny.host(found.router_state), tiny.host(state.router_state))
    tiny.assert_equal(tiny.host(found.optimizer), tiny.host(drawn.optimizer))
    assert int(found.step) == 0


def test_a_run_goes_on_after_what_another_one_read(data):
    """As far as there is text that the other one has not read: 49 rows, 8 a step."""
    run = toys.run_config()
    later = run.replace(train={"first_batch": 2, "steps": 4})
    loop.setup(later, data)
    with pytest.raises(UserError, match="the text ends before step 5, and begins again: 49 rows"):
        loop.setup(later.replace(train={"steps": 5}), data)
    with sharding.on(loop.mesh_of(run), run.mesh.zero):
        got, want = (tiny.host(loop.batch(r, data, i)) for r, i in ((later, 1), (run, 3)))
    tiny.assert_equal(got, want)


def test_resume_comes_first_then_init_from_then_scratch(dense, tmp_path, data, monkeypatch):
    run = dense_run().replace(train={"steps": 2, "checkpoint_every": 1, "eval_every": 2})
    from_dense = run.replace(init_from={"workdir": str(dense)})
    starts = []
    start_ = starting.start

    def watched(*args):
        state = start_(*args)
        starts.append(tiny.host(state.params)["embed"])
        return state

    monkeypatch.setattr(starting, "start", watched)
    with pytest.raises(signals.Stopped):
        loop.train(from_dense, tmp_path / "a", stop=lambda n: True)
    np.testing.assert_array_equal(starts[0], saved(dense)["embed"])
    assert json.loads((tmp_path / "a" / "config.json").read_text())["init_from"]["workdir"]
    loop.train(from_dense, tmp_path / "a")
    assert len(starts) == 1  # it resumed
    loop.train(run, tmp_path / "b")
    assert not np.array_equal(starts[1], starts[0])
    assert not (tmp_path / "b" / "init.json").exists()


def test_a_run_that_died_early_starts_from_where_it_did(tmp_path, data, monkeypatch):
    """Though the other run has trained on meanwhile."""
    source = tmp_path / "source"
    save(dense_run(), source, data, seed=5)
    run = dense_run().replace(
        init_from={"workdir": str(source)}, train={"steps": 2, "checkpoint_every": 2}
    )
    with monkeypatch.context() as patch, pytest.raises(KeyError):
        patch.setattr(loop, "batch", lambda run, data, i: {}[i])
        loop.train(run, tmp_path / "run")
    before = saved(tmp_path / "run")
    save(dense_run(), source, data, seed=6, step=9)
    monkeypatch.setattr(starting, "start", None)
    loop.train(run, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "init.json").read_text())["step"] == 3
    assert not np.array_equal(before["embed"], saved(source)["embed"])


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ({"workdir": "nowhere"}, "'nowhere' has no checkpoint: name the folder of a run"),
        ({"rules": ((".*", "take"),)}, "no such parameter; the nearest is"),
    ],
)
def test_a_refused_start_leaves_no_trace(dense, tmp_path, init, message):
    workdir = tmp_path / "new"
    run = toys.run_config(init_from={"workdir": str(dense)} | init)
    with pytest.raises(ValueError, match=message):
        loop.train(run, workdir)
    assert not workdir.exists()


def test_the_loop_refuses_another_tokenizer(dense, tmp_path, data, monkeypatch):
    other = dataclasses.replace(data, meta={"files": {"tokenizer.json": {"sha256": "ours"}}})
    monkeypatch.setattr(prepare, "prepare", lambda config: other)
    known = {"sha256": {"tokenizer.json": "theirs"}}
    monkeypatch.setattr(starting.sealed, "read_json", lambda path: known)
    run = dense_run().replace(init_from={"workdir": str(dense)})
    with pytest.raises(ValueError, match="another tokenizer"):
        loop.train(run, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_checkpoint_that_is_replaced_while_it_is_read(tmp_path, data, monkeypatch):
    """The run that still trains has a newer one, which is read instead."""
    source = tmp_path / "source"
    save(dense_run(), source, data, seed=5)
    load = checkpoint.Checkpoints.load_parameters
    later = iter((4, 5))  # after two more the first is gone

    def slow(checkpoints, wanted):
        for number in later:  # once
            save(dense_run(), source, data, seed=6, step=number)
        return load(checkpoints, wanted)

    monkeypatch.setattr(checkpoint.Checkpoints, "load_parameters", slow)
    run = dense_run().replace(init_from={"workdir": str(source)})
    start(run, tmp_path, data)
    assert json.loads((tmp_path / "init.json").read_text())["step"] == 5


def test_nothing_may_be_read_at_all(dense, tmp_path, data):
    init = {"workdir": str(dense), "rules": ((".*", "fresh"),), "leave_out": (".*",)}
    drawn, state = start(dense_run().replace(init_from=init), tmp_path, data)
    tiny.assert_equal(tiny.host(state.params), tiny.host(drawn.params))


def test_ids_of_another_tokenizer_are_refused(tmp_path, data):
    other = tmp_path / "other"
    other.mkdir()
    (other / "data.json").write_text('{"sha256": {"tokenizer.json": "theirs"}}')
    config = initialisation.InitConfig(workdir=str(other))
    with pytest.raises(ValueError, match="another tokenizer"):
        starting.check_tokenizer(config, other, data)
    known = initialisation.InitConfig(workdir=str(other), other_tokenizer=True)
    starting.check_tokenizer(known, other, data)


FROZEN = ("embed", ".*/attention/.*")


def frozen_run(patterns=FROZEN):
    return dense_run().replace(optimizer={"frozen": patterns, "weight_decay": 0.1})


def test_what_is_frozen_stays_and_has_no_state(data):
    run = frozen_run()
    with sharding.on(loop.mesh_of(run), run.mesh.zero):
        before = starting.scratch(run, data)
        kept = tiny.host(before.params)
        train_step = step.make_train_step(run.task, run.tx, 0)
        after, metrics = train_step(before, loop.batch(run, data, 0))
        after, metrics = train_step(after, loop.batch(run, data, 1))
    assert float(metrics["grad_norm"]) > 0
    moments = [path for path in paths.named(after.optimizer) if "/mu/" in path]
    for path, leaf in paths.named(kept).items():
        frozen = paths.matches(FROZEN, path)
        same = np.array_equal(leaf, paths.named(after.params)[path])
        assert same == frozen, path
        assert any(moment.endswith(f"/{path}") for moment in moments) != frozen, path


def test_frozen_parameters_cost_no_gradient():
    """The gradient of a weight is one of the three products that training it takes."""
    all_of_it = flops.of_run(dense_run())
    without = flops.of_run(frozen_run((".*/ffn/.*",)))
    assert without.total == pytest.approx(all_of_it.total - all_of_it.products["dense_ffn"] / 3)


def test_what_is_frozen_needs_no_memory_for_gradients(monkeypatch):
    """So a model that would not fit may be trained in part."""
    run = dense_run()
    mesh = loop.mesh_of(run)
    held = estimate.bytes_per_device(models.parameter_shapes(run.model))
    monkeypatch.setattr(room, "_memory", lambda devices: (1.5 * held, "it"))
    with pytest.raises(ValueError, match=r"needs 3.67e-05 GiB a device .* it has 1.38e-05 GiB"):
        room.check_state(run, mesh)
    room.check_state(frozen_run(("embed", "block/.*")), mesh)


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (("emded",), "'emded', which matches no parameter"),
        ((".*",), "matches every parameter"),
        (("(",), "no regular expression"),
    ],
)
def test_patterns_that_freeze_nothing_or_all_are_refused(patterns, message):
    with pytest.raises(ValueError, match=message):
        run = frozen_run(patterns)
        run.tx.init(jax.tree.map(jnp.zeros_like, {"embed": 1.0, "norm": {"scale": 1.0}}))
