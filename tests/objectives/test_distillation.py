"""A student learns from targets and from a teacher, which stays as it is."""

import contextlib
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import distil
from moe import initialisation, models, objectives, paths, schema, sharding
from moe.data import prepare
from moe.initialisation import mapping
from moe.objectives import distillation
from moe.training import checkpoint, gradients, loop, metrics, starting, step, workdirs
from moe.training.config import RunConfig
from tests import tiny
from tests.training import toys

TEACHER = tiny.model(experts=tiny.moe_config(k=2, d_ff=16))
STUDENT = tiny.model(experts=None)
KEY = jax.random.key(0)


def task(share=0.25, student=STUDENT, teacher=TEACHER):
    options = distillation.Options(teacher=teacher, share=share)
    return objectives.task(
        student, objectives.ObjectiveConfig(name="distillation", options=options)
    )


def params(student=STUDENT, teacher=TEACHER):
    return tiny.params(student) | {"teacher": tiny.params(teacher, seed=1)}


def test_both_losses_by_hand():
    batch = tiny.inputs()
    given = params()
    taught = task()
    (loss, (measured, _)), grads = jax.jit(
        lambda p: gradients.value_and_grad(taught, p, {}, batch, KEY, 1)
    )(given)
    counted_BT = np.asarray(batch.counted_BT)

    def log_p(config, params):
        logits_BTV = tiny.output(config, params, {}, batch).logits
        return np.asarray(jax.nn.log_softmax(logits_BTV))[counted_BT]

    ours, theirs = log_p(STUDENT, distillation.student(given)), log_p(TEACHER, given["teacher"])
    targets = np.asarray(batch.targets_BT)[counted_BT]
    hard = -ours[np.arange(len(targets)), targets].mean()
    soft = -(np.exp(theirs) * ours).sum(-1).mean()
    tiny.assert_close(measured["hard_loss"], hard)
    tiny.assert_close(measured["soft_loss"], soft)
    tiny.assert_close(loss, 0.25 * soft + 0.75 * hard)
    moved = paths.named(jax.tree.map(lambda g: np.abs(g).max(), grads))
    assert {path for path, size in moved.items() if size == 0} == {
        path for path in moved if path.startswith("teacher/")
    }


def test_nothing_is_left_to_learn_of_oneself():
    """A student that is its teacher: the soft loss is the entropy, its gradient 0."""
    plain = tiny.params(STUDENT)
    given = plain | {"teacher": plain}
    taught = task(share=1.0, teacher=STUDENT)
    grads = jax.jit(lambda p: gradients.value_and_grad(taught, p, {}, tiny.inputs(), KEY, 1)[1])(
        given
    )
    assert max(float(np.abs(g).max()) for g in jax.tree.leaves(grads)) < 1e-6


def test_evaluation_is_that_of_the_next_token():
    batch = tiny.inputs()

    def nll(task, params):
        return jax.jit(lambda p: task.forward(p, {}, batch, KEY, False).sums.nll)(params)

    want = nll(objectives.task(STUDENT), tiny.params(STUDENT))
    tiny.assert_close(nll(task(), params()), want)


@pytest.fixture(scope="module")
def data():
    return toys.data()


@pytest.fixture
def teacher(tmp_path, data, monkeypatch):
    """The folder of a run of two layers, of which the last has experts."""
    monkeypatch.setattr(prepare, "prepare", lambda config: data)
    run = run_of(tiny.moe_config(k=2, d_ff=16))
    with (
        sharding.on(loop.mesh_of(run)),
        contextlib.closing(checkpoint.Checkpoints(tmp_path / "teacher")) as checkpoints,
    ):
        checkpoints.save(3, starting.scratch(run, data), 1.0)
    (tmp_path / "teacher" / "data.json").write_text(json.dumps(workdirs.identity(data)))
    return tmp_path / "teacher"


def run_of(experts, **sections):
    run = toys.run_config(mesh={"data": 2, "expert": 1 if experts is None else 4}, **sections)
    return dataclasses.replace(run, model=tiny.model(vocab_size=toys.V, experts=experts))


def student_run(teacher, rules):
    options = distillation.Options(teacher=run_of(tiny.moe_config(k=2, d_ff=16)).model)
    run = dataclasses.replace(
        run_of(None),
        objective=objectives.ObjectiveConfig(name="distillation", options=options),
        init_from=initialisation.InitConfig(workdir=str(teacher), rules=rules),
    )
    return run.replace(mesh={"data": 8, "expert": 1})


def test_a_student_is_trained(teacher, tmp_path, data):
    """From the teacher's weights that are no experts; the teacher ends as it began."""
    run = student_run(teacher, distillation.START)
    result = loop.train(run, tmp_path / "student")
    records = metrics.read(tmp_path / "student" / "metrics.jsonl")
    assert all({"hard_loss", "soft_loss"} <= r.keys() for r in records if r["split"] == "train")
    assert np.isfinite(result["test_nll"])
    end = toys.Run(tmp_path / "student", result).state(run)
    with sharding.on(loop.mesh_of(run)):
        begin = starting.start(run, tmp_path, starting.scratch(run, data), data)
        tiny.assert_equal(end.params["teacher"], tiny.host(begin.params["teacher"]))
        assert (np.asarray(begin.params["embed"]) != end.params["embed"]).any()
        np.testing.assert_array_equal(begin.params["embed"], begin.params["teacher"]["embed"])
    assert not any("teacher" in path for path in paths.named(end.optimizer))


def test_a_student_begins_as_the_mean_of_experts(teacher, tmp_path, data):
    run = student_run(teacher, distillation.merged(moe_every=2))
    with sharding.on(loop.mesh_of(run)):
        begin = starting.start(run, tmp_path, starting.scratch(run, data), data).params
    block, taught = begin["block"], begin["teacher"]["block"]
    experts = taught["layer_1"]["moe"]["experts"]["w_in"]
    tiny.assert_close(block["layer_1"]["ffn"]["w_in"], np.asarray(experts).mean(1))
    tiny.assert_equal(
        np.asarray(block["layer_0"]["ffn"]["w_in"]), np.asarray(taught["layer_0"]["ffn"]["w_in"])
    )


def test_what_cannot_be():
    with pytest.raises(ValueError, match="objective.options.teacher is missing"):
        distillation.check(STUDENT, distillation.Options())
    other = dataclasses.replace(TEACHER, vocab_size=64)
    with pytest.raises(ValueError, match="the teacher's vocabulary has 64 ids, the student's 32"):
        distillation.check(STUDENT, distillation.Options(teacher=other))
    biased = tiny.sparse(router="sigmoid", k=2)
    with pytest.raises(ValueError, match="a teacher with experts.router='sigmoid' keeps a state"):
        distillation.check(STUDENT, distillation.Options(teacher=biased))
    with pytest.raises(ValueError, match="objective.options.share=2.0"):
        distillation.Options(teacher=TEACHER, share=2.0)


def test_the_rules_name_what_there_is():
    """`START` reads every parameter of the teacher."""
    saved = paths.named(models.parameter_shapes(TEACHER))
    drawn = paths.named(jax.eval_shape(task().model.init, KEY))
    for rules in (distillation.START, distillation.merged(2)):
        config = initialisation.InitConfig(workdir="there", rules=rules)
        mapping.origins(config, drawn, saved)


def test_the_optimizer_has_nothing_of_the_teacher():
    run = student_run("there", distillation.START)
    state = jax.eval_shape(lambda: step.init(run.task.model, run.tx, 0))
    assert "teacher" in state.params
    assert not any("teacher" in path for path in paths.named(state.optimizer))
    assert jnp.shape(state.step) == ()


def test_the_config_of_a_student(tmp_path):
    run = run_of(tiny.moe_config(k=2, d_ff=16))
    workdirs.claim(run, tmp_path, toys.data())
    made = schema.from_config_dict(RunConfig, distil.get_config(str(tmp_path)))
    assert made.model.experts is None and made.objective.options.teacher == run.model
    assert made.train == run.train and made.init_from.rules == distillation.START
    frozen = run.replace(optimizer={"frozen": ("embed",)})
    workdirs.claim(frozen, tmp_path / "frozen", toys.data())
    made = schema.from_config_dict(RunConfig, distil.get_config(str(tmp_path / "frozen")))
    assert made.optimizer.frozen == ()
    low = run.replace(lora={"rank": 2})
    workdirs.claim(low, tmp_path / "lora", toys.data())
    with pytest.raises(ValueError, match="make it plain by experiments.adapt --how=plain"):
        distil.get_config(str(tmp_path / "lora"))
    workdirs.claim(run_of(None), tmp_path / "dense", toys.data())
    with pytest.raises(ValueError, match="is of a dense model: the student would be as large"):
        distil.get_config(str(tmp_path / "dense"))
