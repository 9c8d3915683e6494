"""Plans by arithmetic, against closed forms and the CPU's compiler; and the compiler's verdicts."""

import dataclasses

import jax
import numpy as np
import pytest

from moe import chips, flops, hlo, plan, presets, sharding, target
from moe.analysis import planning
from moe.data import prepare
from moe.errors import UserError
from moe.training import config as configs
from moe.training import estimate, optimizer, step
from tests import tiny
from tests.objectives import test_span_corruption as span_corruption

V = 512
ONE_LAYER = tiny.model(
    vocab_size=V, num_layers=1, moe_every=1, experts=tiny.moe_config(num_experts=8)
)


def run_config(network=None, batch=16, length=64, name="adamw", accumulate=1, **mesh):
    small = tiny.model(
        vocab_size=V, d_model=32, num_layers=4, experts=tiny.moe_config(num_experts=8)
    )
    return configs.RunConfig(
        model=network or small,
        train=configs.TrainConfig(
            steps=10, batch_size=batch, seq_len=length, accumulate=accumulate
        ),
        data=prepare.DataConfig(vocab_size=V),
        optimizer=optimizer.OptimizerConfig(name=name),
        mesh=configs.MeshConfig(**mesh),
    )


def test_state_on_a_device():
    """float32 parameters, twice that for Adam; ZeRO leaves an eighth of every matrix."""
    total = flops.parameters(run_config().model).total * 4
    alone = plan.arithmetic(run_config(), "v5e", 1).memory
    assert alone.parameters == total
    assert alone.optimizer == pytest.approx(2 * total, abs=16)
    spread = plan.arithmetic(run_config(data=2, expert=4, zero=True), "v5e", 8).memory
    assert total / 8 < spread.parameters < total / 8 * 1.1  # norms are everywhere
    experts = plan.arithmetic(run_config(data=2, expert=4), "v5e", 8).memory
    assert spread.parameters < experts.parameters < alone.parameters


@pytest.mark.parametrize("accumulate", [1, 2])
def test_executed_flops_are_those_of_the_whole_step(accumulate):
    """Counted in fewer sequences: two of 64 tokens fill a group of 128."""
    network = tiny.model(vocab_size=V, experts=tiny.moe_config(group_size=128))
    run = run_config(network, accumulate=accumulate)
    whole = flops.of_run(run).total
    assert plan.arithmetic(run, "v5e", 1).executed_flops == whole > 0


def test_adafactor_keeps_less():
    wide = tiny.model(vocab_size=V, d_model=128, d_ff=256)
    adam, ada = (
        plan.arithmetic(run_config(wide, name=n), "v5e", 1).memory for n in ("adamw", "adafactor")
    )
    assert ada.optimizer < adam.optimizer / 4


def test_traffic_of_arithmetic():
    """Experts: 2 crossings each way; tensors: a sum for each of two halves of a layer, each way."""
    sent = plan.arithmetic(run_config(data=2, expert=4), "v5e", 8).traffic
    crossings = sent["all-to-all", "expert"]
    assert crossings.times == 4 * 2
    slots = 16 * 64 / 8 * 1.0  # tokens of a device, at K = 1 and capacity factor 1
    assert crossings.bytes == 8 * slots * 32 * 4 * 3 / 4
    assert {axes for _, axes in sent} == {"expert", "data", "data+expert"}
    sent = plan.arithmetic(run_config(data=1, expert=1, model=2), "v5e", 2).traffic
    assert sent["all-reduce", "model"].times == 2 * 2 * 4 + 2
    sent = plan.arithmetic(run_config(data=2, expert=4, zero=True), "v5e", 8).traffic
    assert {kind for kind, _ in sent} == {
        "all-to-all", "all-gather", "reduce-scatter", "all-reduce"
    }  # fmt: skip
    norms = (2 * 4 + 1) * 32 * 4  # which ZeRO leaves on every device
    assert sent["all-reduce", "data+expert"].bytes == 2 * 7 / 8 * norms


def test_a_recomputed_layer_and_micro_batches_travel_again():
    def times(**changes):
        model = tiny.model(
            vocab_size=V, remat=changes.pop("remat", False), experts=tiny.moe_config(num_experts=8)
        )
        return plan.arithmetic(run_config(model, expert=4, **changes), "v5e", 8).traffic[
            "all-to-all", "expert"
        ].times  # fmt: skip

    assert (times(), times(remat=True), times(accumulate=2)) == (4, 6, 2 * 6)


def test_the_gathering_transport():
    sent = plan.arithmetic(run_config(expert=4, transport="all_gather"), "v5e", 8).traffic
    assert ("all-to-all", "expert") not in sent
    assert sent["all-gather", "expert"].bytes == sent["reduce-scatter", "expert"].bytes


@pytest.mark.parametrize(("remat", "policy"), [(False, "full"), (True, "full"), (True, "products")])
def test_traffic_is_that_of_the_compiled_program(remat, policy):
    """In bytes, as the CPU's compiler has it; ZeRO gathers and scatters, and sums only the rest."""
    model = tiny.model(
        vocab_size=V, num_layers=4, remat=remat, scan_unroll=1,
        experts=tiny.moe_config(num_experts=8, k=2),
    )  # fmt: skip
    run = run_config(model, length=8, data=2, expert=4, zero=True, remat_policy=policy)
    want = plan.arithmetic(run, "v5e", 8).traffic
    mesh = sharding.make_mesh(2, 4)
    with sharding.on(mesh, zero=True):
        program = step.of_run(run).lower(plan.state_shapes(run), shapes(run, mesh)).compile()
    found = hlo.traffic(program.as_text(), {"data": 2, "expert": 4, "model": 1})
    summed = sum(t.bytes for (kind, _), t in found.items() if kind == "all-reduce")
    for kind in ("all-gather", "reduce-scatter", "all-to-all"):
        for axis in ("data", "expert"):
            assert (kind, axis) not in want or found[kind, axis].bytes == want[kind, axis].bytes
    assert ("all-gather", "data") in want and ("reduce-scatter", "expert") in want
    assert {kind for kind, axes in found} - {"all-reduce"} == {kind for kind, _ in want} - {
        "all-reduce"
    }
    assert summed - want["all-reduce", "data+expert"].bytes < 1000  # of statistics


def test_both_stacks_of_an_encoder_decoder_travel():
    """All-to-alls as the CPU's compiler has them; one tensor more crosses in the decoder."""
    run = span_corruption.run_config(
        mesh={"data": 2, "expert": 4},
        model={"num_layers": 1, "moe_every": 1, "experts": tiny.moe_config(num_experts=8, k=2)},
    )
    want = plan.arithmetic(run, "v5e", 8).traffic
    mesh = sharding.make_mesh(2, 4)
    with sharding.on(mesh):
        text = step.of_run(run).lower(plan.state_shapes(run), shapes(run, mesh)).compile().as_text()
    found = hlo.traffic(text, {"data": 2, "expert": 4, "model": 1})
    assert found["all-to-all", "expert"] == want["all-to-all", "expert"]
    own = dataclasses.replace(run, mesh=configs.MeshConfig(data=1, expert=1, model=2))
    own = own.replace(model={"vocab_size": 258, "num_layers": 2, "experts": None})
    sent = plan.arithmetic(own, "v5e", 2).traffic["all-reduce", "model"]
    layers, passes = 2, 2
    assert sent.times == passes * layers * (2 + 3) + 1 + 2


def shapes(run, mesh):
    layout = jax.sharding.NamedSharding(mesh, sharding.spec("BT"))
    return run.task.batch_shapes(run.train.batch_size, run.train.seq_len, layout=layout)


def test_activations_of_both_stacks():
    """Each stack keeps what it would alone, and the decoder what reads the encoder."""
    run = span_corruption.run_config(model={"experts": None})
    sizes = {"data": 1, "expert": 1, "model": 1}
    whole = estimate.activations(run, sizes)
    decoder, encoder = estimate._parts(run, sizes)
    assert (decoder.read, encoder.read) == (encoder.length, 0)
    alone = sum(estimate._layers(part, 1, 4)[0] for part in (decoder._replace(read=0), encoder))
    m, B = run.model, run.micro_batch
    T, U, N, H = decoder.length, encoder.length, m.num_heads, m.d_head
    cross = T * (m.d_model + 2 * N * H) * 4 + U * 2 * N * H * 4 + T * U * N * (4 + 4)
    head = B * T * m.vocab_size * 8
    assert whole == alone + m.num_layers * B * cross + head


def test_seconds():
    planned = plan.arithmetic(run_config(data=2, expert=4), "v5e", 8)
    s = planned.seconds
    chip = chips.CHIPS["v5e"]
    assert s["compute"] == planned.executed_flops / 8 / chip.flops
    assert s["interconnect"] == sum(t.bytes for t in planned.traffic.values()) / chip.link_bandwidth
    assert s["overlapped"] == max(s["compute"], s["memory"], s["interconnect"])
    assert s["serial"] == pytest.approx(s["compute"] + s["memory"] + s["interconnect"])
    assert planned.devices == 8 and planned.tokens == 16 * 64


def test_what_cannot_be_planned():
    with pytest.raises(ValueError, match="no chip 'v9': use one of v4"):
        plan.arithmetic(run_config(), "v9", 1)
    with pytest.raises(ValueError, match="num_experts=8 is not divisible by mesh.expert=16"):
        plan.arithmetic(run_config(expert=16), "v5e", 16)
    with pytest.raises(ValueError, match="does not fit 3 devices"):
        plan.arithmetic(run_config(expert=2), "v5e", 3)


def test_zero_gathers_what_a_block_or_a_whole_model_needs():
    """Without remat every gathered weight is kept for the backward pass."""

    def temporary(remat, zero):
        model = tiny.model(
            vocab_size=V,
            d_model=64,
            num_layers=8,
            remat=remat,
            experts=tiny.moe_config(num_experts=8, d_ff=64),
        )
        run = run_config(model, batch=8, length=8, data=4, expert=2, zero=zero)
        return plan.arithmetic(run, "v5e", 8).memory

    whole, block = (temporary(remat, True).temporary for remat in (False, True))
    weights = temporary(False, False).parameters
    assert whole > 2 * weights * 0.9 and block < whole / 2


def test_activations_shrink_with_remat_and_the_mesh():
    def bytes_of(remat, **mesh):
        model = tiny.model(
            vocab_size=V, num_layers=8, remat=remat, experts=tiny.moe_config(num_experts=8)
        )
        sizes = {"data": 1, "expert": 1, "model": 1} | mesh
        return estimate.activations(run_config(model), sizes)

    assert bytes_of(True) < bytes_of(False)
    assert bytes_of(False, data=4) == bytes_of(False) / 4


def test_a_fused_kernel_keeps_no_scores():
    """On TPUs it fits 128 tokens and not 64."""

    def kept(length, attention):
        run = run_config(length=length, attention=attention)
        return estimate.activations(run, {"data": 1, "expert": 1, "model": 1})

    with target.compiling_for("tpu"):
        assert kept(128, "auto") < kept(128, "plain")
        assert kept(64, "auto") == kept(64, "plain")


# The compiler, whose part an error and a CPU program play here.


class Refusing:
    """A lowered program that does not fit."""

    def __init__(self, message):
        self.message = message

    def compile(self):
        raise jax.errors.JaxRuntimeError(self.message)


def compile_with(monkeypatch, lowered, run):
    monkeypatch.setattr(plan, "tpu_devices", lambda topology: jax.devices()[:8])
    if lowered is not None:
        monkeypatch.setattr(plan, "lower", lambda run, mesh: lowered)
    return plan.compiled(run, "v5e:2x4")


@pytest.mark.parametrize(
    "verdict",
    [
        "Ran out of memory on HBM, the total memory required for HLO temporaries (157.00G)"
        " exceeds available HBM (15.75G).",
        "XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 157.00G of"
        " 15.75G hbm. Exceeded hbm capacity by 141.25G.",
    ],
)
def test_out_of_memory_is_a_verdict(monkeypatch, verdict):
    run = run_config(data=2, expert=4)
    planned = compile_with(monkeypatch, Refusing(f"RESOURCE_EXHAUSTED: {verdict}"), run)
    assert planned.how == "refused" and planned.memory.limit == 15.75 * 2**30
    assert planned.memory.peak == pytest.approx(157 * 2**30, rel=1e-4)
    assert planned.memory.short == pytest.approx(141.25 * 2**30, rel=1e-4)
    text = planning.report([row(run, planned)], "v5e:2x4")
    assert "short by 141.25 GiB" in text and "--zero" in text and "compiler refused" in text
    assert planned.traffic == plan.arithmetic(run, "v5e", 8).traffic


def test_another_failure_of_the_compiler_is_an_error(monkeypatch):
    with pytest.raises(UserError, match="the TPU compiler failed: INTERNAL: mosaic"):
        compile_with(monkeypatch, Refusing("INTERNAL: mosaic"), run_config(data=2, expert=4))


def test_a_compiled_plan_has_the_program_s_numbers(monkeypatch):
    """Here the CPU's compiler stands in: peak memory adds up, and traffic is the program's."""
    monkeypatch.setattr(plan, "PLATFORM", "cpu")
    run = run_config(ONE_LAYER, length=8, data=2, expert=4)
    planned = compile_with(monkeypatch, None, run)
    guess = plan.arithmetic(run, "v5e", 8)
    assert planned.how == "compiled" and planned.compile_seconds > 0
    assert planned.memory[:2] == guess.memory[:2] and planned.memory.temporary > 0
    assert planned.traffic["all-to-all", "expert"] == guess.traffic["all-to-all", "expert"]
    assert np.isfinite(list(planned.seconds.values())).all()


def test_a_chip_of_two_devices_is_refused(monkeypatch):
    cores = [type("Core", (), {"core_on_chip": i % 2})() for i in range(8)]
    monkeypatch.setattr(plan, "tpu_devices", lambda topology: cores)
    with pytest.raises(ValueError, match="v4:2x2x1: this compiler takes each .* --arithmetic"):
        plan.compiled(run_config(expert=4), "v4:2x2x1")


def test_an_unknown_topology():
    with pytest.raises(ValueError, match="no topology 'v5e:7x7x7'.*requirements-plan.txt"):
        plan.tpu_devices("v5e:7x7x7")


# The report.


def row(run, planned, name="mine", **changes):
    preset = presets.Preset(model=run.model, total=1e6, length=64, source="a test", **changes)
    return planning.row(name, preset, run, planned, tokens=1e9)


def test_report():
    run = run_config(data=2, expert=4)
    first = row(run, plan.arithmetic(run, "v5e", 8), note="a note")
    dense = run_config(tiny.model(vocab_size=V, d_model=32, num_layers=4, experts=None))
    other = row(dense, plan.arithmetic(dense, "v5e", 8), "dense")
    text = planning.report([first, other], "v5e:2x4")
    assert "|  | mine | dense |" in text and "8 devices, 197 TFLOP/s, 16 GiB" in text
    assert "(published 0.001B)" in text and "mine: a note" in text and "fits" in text
    assert "| all-to-all | expert | 8 |" in text
    ratio = first["ideal_flops_per_token"] / other["ideal_flops_per_token"]
    assert f"{ratio:.2f}, which is also the ratio of energies" in text
    planned = plan.arithmetic(run, "v5e", 8)
    hours = 1e9 / planned.tokens * planned.seconds["serial"] / 3600
    assert first["megawatt_hours"]["serial"] == pytest.approx(hours * 8 * 170 / 1e6)
    assert first["days"]["serial"] == pytest.approx(hours / 24)
    assert not sharding.current()
