"""Parents, what they become, and the table of it."""

import dataclasses

import numpy as np
import pytest

from configs import upcycling as configs
from experiments import adapt, made, records, upcycling
from moe import errors, flops, sealed
from moe.analysis import upcycling as tables
from moe.training import workdirs

SIZES = {"vocab_size": 257, "d_model": 8, "num_heads": 1, "d_head": 8, "d_ff": 16, "num_layers": 1}


@pytest.fixture
def config():
    found = configs.cpu()
    found.base.model.update(SIZES)
    found.base.data.vocab_size = SIZES["vocab_size"]
    found.experts.d_ff = SIZES["d_ff"]
    found.parents = (750, 3000)
    found.at = 3000
    found.lengths = (250, 500)
    return found


def test_the_runs_of_a_study(config, tmp_path, monkeypatch):
    """Text goes on where parents stopped; the parent trained on takes as many FLOPs as experts."""
    dense = upcycling.parents(config)
    assert [run.train.steps for run in dense.values()] == [750, 3000]
    asked = []

    def adapted(source, out, how, *_, experts, k, parts, **more):
        asked.append((source, out, how))
        model = dense["dense"].model
        options = configs.schema.from_config_dict(upcycling.MoEConfig, config.experts, "e.")
        own = dataclasses.replace(
            options, num_experts=experts * parts, k=k * parts, d_ff=16 // parts, group_size=0
        )
        run = dataclasses.replace(dense["dense"], model=dataclasses.replace(model, experts=own))
        workdirs.claim(run, upcycling.pathlib.Path(out))
        said = {"experts": experts, "k": k, "parts": parts, "share": more["share"], "parents": []}
        sealed.write_json(upcycling.pathlib.Path(out, "adapted.json"), said | {"seed": 0})

    monkeypatch.setattr(adapt, "adapted", adapted)
    monkeypatch.setattr(made.looks, "require_checkpoint", lambda path: None)
    upcycling.make(config, dense, tmp_path, range(1))
    source = str(tmp_path / "dense@750" / "seed0")
    assert asked[0] == (source, str(tmp_path / "made" / "copies_750" / "seed0"), "upcycle")
    (tmp_path / "made" / "moments_3000" / "seed0" / "adapted.json").unlink()  # interrupted
    number = len(asked)
    upcycling.make(config, dense, tmp_path, range(1))
    assert len(asked) == number + 1 and "moments" in asked[-1][1]
    config.ways.redrawn.share = 0.25
    with pytest.raises(errors.UserError, match="redrawn_3000/seed0 was made with {'share': 0.5}"):
        upcycling.make(config, dense, tmp_path, range(1))
    runs = upcycling.children(config, dense, tmp_path, range(1))
    assert "redrawn_750" not in runs and runs["moments_3000"].init_from.optimizer
    copies = records.seeded(runs["copies_3000"], 2)
    assert copies.train.first_batch == 3000 and not copies.init_from.optimizer
    assert copies.init_from.workdir == str(tmp_path / "made" / "copies_3000" / "seed2")
    assert copies.model == runs["scratch_0"].model
    fine = runs["granular_3000"].model.experts
    assert (fine.num_experts, fine.k, fine.d_ff, fine.group_size) == (16, 4, 8, 2048)
    for before in (750, 3000):
        own, other = (runs[f"{name}_{before}"] for name in ("copies", "continued"))
        cost = [flops.of_run(run).total * run.train.steps for run in (own, other)]
        assert cost[1] == pytest.approx(cost[0], rel=0.002)
        assert other.model == dense["dense"].model


def test_what_others_are_compared_with_must_be_there(config):
    config.at = 1000
    with pytest.raises(errors.UserError, match=r"at=1000 is none of parents=\(750, 3000\)"):
        upcycling.parents(config)
    config.at = 750
    del config.ways["copies"]
    with pytest.raises(errors.UserError, match="lacks 'copies' with everywhere=True"):
        upcycling.parents(config)


def record(variant, steps, seed, nll, before=0, flops_per_token=1.0):
    return {
        "variant": variant, "steps": steps, "seed": seed, "test_nll": nll, "tokens_per_step": 1000,
        "executed_flops": flops_per_token, "learning_rate": 0.1, "curve_nll": [9.0, nll + 0.5],
        "config": {"train": {"first_batch": before}},
    }  # fmt: skip


def law(before, after, c=0.02, floor=1.0):
    x, y = np.log(1000.0 * before), np.log(1000.0 * after)
    return floor + float(np.exp(6.0 - 0.3 * x - 0.35 * y + c * x * y))


GRID = [(b, a) for b in (100, 200, 400) for a in (50, 100, 200)]
RECORDS = [
    *(record("dense", b, s, 3.0) for b in (100, 200, 400) for s in range(3)),
    *(record(f"copies_{b}", a, s, law(b, a), b, 2.0) for b, a in GRID for s in range(3)),
    *(record(f"continued_{b}", 2 * a, s, law(b, a) + 0.1, b) for b, a in GRID for s in range(3)),
    *(record("scratch_0", a, s, 4.0 - a / 1e3, 0, 2.0) for a in (50, 100, 400) for s in range(3)),
    *(record("redrawn_400", a, 0, law(400, a) - 0.2, 400, 2.0) for a in (50, 200)),
]  # fmt: skip


def test_the_table():
    text = tables.table(RECORDS)
    rows = [line for line in text.splitlines() if line.startswith(("| 0.", "| redrawn"))]
    assert len(rows) == len(GRID) + 2
    nats = law(100, 50)
    beside = f"{nats - 3.95:+.4f} ± 0.0000"  # from scratch for 50 steps
    in_all = f"{nats - 3.9:+.4f} ± 0.0000"  # 50 steps of 2 and a parent of 100 are 100 of 2
    assert rows[0] == f"| 0.1 | 0.1 | {nats:.4f} | -0.1000 ± 0.0000 | {beside} | {in_all} |"
    assert rows[8].split(" | ")[4] == "-"  # none from scratch took 200 steps
    assert rows[9] == f"| redrawn | 0.4 | 0.1 | {law(400, 50) - 0.2:.4f} | -0.2000 |"
    assert "+0.0200 ± 0.0000 above each seed's best floor (1.00, 1.00, 1.00 nats)" in text


def test_the_interaction_is_found_on_known_losses():
    for c in (-0.01, 0.0, 0.03):
        losses = {(1000 * b, 1000 * a): law(b, a, c) for b, a in GRID}
        assert tables.floor_of(losses) == pytest.approx(1.0, abs=1e-3)
        assert tables.interaction(losses, 1.0) == pytest.approx(c, abs=1e-9)


def test_pilots_are_a_row_each_and_the_figure_has_a_panel_for_each_parent():
    pilots = [
        record(f"copies_400_lr_{i}", 100, 9, 3.0 + i, 400) | {"learning_rate": 0.1 * (1 + i)}
        for i in range(2)
    ]
    assert tables.table(pilots).splitlines()[-1] == "| copies_400_lr_1 | 0.2 | 4.5000 |"
    (axis,) = tables.drawn(pilots).axes
    assert list(axis.lines[0].get_xdata()) == [0.1, 0.2]
    assert len(tables.drawn(RECORDS).axes) == 3
