"""What is read from a program: loops multiplied, groups as axes, bytes as in rings."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from moe import hlo, sharding
from tests import tiny

MESH = {"data": 2, "expert": 2, "model": 2}


def program(groups, kind="all-reduce", shape="f32[10]"):
    return f"""HloModule m
%add (a: f32[], b: f32[]) -> f32[] {{
  ROOT %sum = f32[] add(%a, %b)
}}

ENTRY %main (x: f32[10]) -> f32[10] {{
  ROOT %r = {shape} {kind}(%x), channel_id=1, {groups}, to_apply=%add
}}
"""


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ("replica_groups={{0,1},{2,3},{4,5},{6,7}}", "model"),
        ("replica_groups={{0,2},{1,3},{4,6},{5,7}}", "expert"),
        ("replica_groups={{0,4},{1,5},{2,6},{3,7}}", "data"),
        ("replica_groups=[4,2]<=[8]", "model"),
        ("replica_groups=[2,4]<=[4,2]T(1,0)", "data+expert"),
        ("replica_groups=[1,8]<=[8]", "data+expert+model"),
        ("replica_groups={}", "data+expert+model"),
        ("replica_groups=mesh['a'=4,'b'=2] {'b'}", "model"),
        ("replica_groups=mesh['a'=4,'b'=2,'c'=1] {'a','c'}", "data+expert"),
        ("replica_groups=mesh['a'=8] {'a':(1)2}", "data"),
        ("replica_groups=mesh['a'=8] {'a':(2)2}", "expert"),
        ("replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}", "model"),
        ("source_target_pairs={{0,2},{2,0}}", "expert"),
    ],
)
def test_which_axes_a_collective_crosses(groups, axes):
    kind = "collective-permute" if "source" in groups else "all-reduce"
    assert set(hlo.traffic(program(groups, kind), MESH)) == {(kind, axes)}


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("all-reduce", 2 * 40 * 3 / 4), ("all-gather", 40 * 3 / 4), ("all-to-all", 40 * 3 / 4),
        ("reduce-scatter", 40 * 3), ("collective-permute", 40),
    ],
)  # fmt: skip
def test_bytes_of_a_ring(kind, sent):
    assert hlo.wire_bytes(kind, 40, 4) == sent


def test_a_start_names_its_operand_too():
    text = program("replica_groups=[4,2]<=[8]", "all-gather-start", "(f32[5], f32[10])")
    assert hlo.traffic(text, MESH) == {("all-gather", "model"): hlo.Traffic(1, 20.0)}
    text = program("replica_groups=[4,2]<=[8]", shape="(f32[5], bf16[10], token[])")
    assert hlo.traffic(text, MESH) == {("all-reduce", "model"): hlo.Traffic(1, 40.0)}


def test_a_collective_in_several_fusions_is_one():
    """As the TPU compiler overlaps it with others' work: one channel, one tx."""
    gather = "f32[10] all-gather(%x), channel_id=7, replica_groups=[4,2]<=[8]"
    text = "HloModule m\n"
    for i, attributes in enumerate(['chain_id="3"', 'chain_id="3"', 'chain_id="4"', "", ""]):
        text += f"%f{i} (x: f32[5]) -> f32[10] {{\n  ROOT %g = {gather}, frontend_attributes="
        text += f"{{{attributes}}}\n}}\n\n"
    text += "ENTRY %main (x: f32[5]) -> f32[10] {\n"
    text += "".join(f"  %c{i} = f32[10] fusion(%x), calls=%f{i}\n" for i in range(5)) + "}\n"
    assert hlo.traffic(text, MESH) == {("all-gather", "model"): hlo.Traffic(4, 80.0)}


def test_a_sum_of_which_a_part_is_wanted_is_a_reduce_scatter():
    text = program("replica_groups=[4,2]<=[8]").replace("ENTRY %main", "%all-reduce-scatter.1")
    text += "\nENTRY %main (x: f32[10]) -> f32[5] {\n"
    text += "  ROOT %f = f32[5] fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1\n}\n"
    assert hlo.traffic(text, MESH) == {("reduce-scatter", "model"): hlo.Traffic(1, 20.0)}


def test_a_group_of_one_sends_nothing():
    assert hlo.traffic(program("replica_groups={{0},{1}}"), MESH) == {}


def test_a_permutation_s_start_has_words_of_context():
    shape = "(f32[10], f32[10], u32[], u32[])"
    text = program("source_target_pairs={{0,0},{1,3},{3,1}}", "collective-permute-start", shape)
    sent = hlo.traffic(text, MESH)
    assert sent == {("collective-permute", "expert"): hlo.Traffic(1, 40.0)}


@pytest.mark.parametrize(
    "call",
    ["branch_computations={%few, %many}", "true_computation=%many, false_computation=%few"],
)
def test_of_a_conditional_the_dearest_branch_counts(call):
    text = "HloModule m\n"
    for name, size in (("few", 1), ("many", 10)):
        text += f"%{name} (x: f32[{size}]) -> f32[{size}] {{\n  ROOT %r = f32[{size}] "
        text += "all-reduce(%x), channel_id=1, replica_groups=[4,2]<=[8], to_apply=%add\n}\n\n"
    text += (
        f"ENTRY %main (x: f32[1]) -> f32[1] {{\n  ROOT %c = f32[1] conditional(%x), {call}\n}}\n"
    )
    assert hlo.traffic(text, MESH) == {("all-reduce", "model"): hlo.Traffic(1, 40.0)}


def test_a_collective_without_a_rule_is_an_error():
    with pytest.raises(ValueError, match="no rule for the bytes of a ragged-all-to-all"):
        hlo.traffic(program("replica_groups={{0,1}}", "ragged-all-to-all"), MESH)


def test_unknown_notation_is_an_error():
    with pytest.raises(ValueError, match="which devices take part"):
        hlo.traffic(program("replica_groups=@somewhere"), MESH)
    with pytest.raises(ValueError, match="unknown type of number"):
        hlo.traffic(program("replica_groups={{0,1}}", shape="f8e4m3x[10]"), MESH)


def test_loops_multiply_and_sums_are_found():
    """A scan in a scan: 3 x 5 sums over 'data' of [4] floats, and one outside."""

    def inner(x, _):
        return jax.lax.psum(jnp.sin(x), "data") / 8, None

    def outer(x, _):
        return jax.lax.scan(inner, x, None, length=5)[0], None

    def summed(x):
        y = jax.lax.scan(outer, x, None, length=3)[0]
        return jax.lax.psum(y, "data")

    with tiny.on("8x1"):
        mapped = jax.shard_map(summed, in_specs=P(), out_specs=P(), check_vma=False)
        x = sharding.reshard(jnp.ones(4), ".")
        text = jax.jit(mapped).lower(x).compile().as_text()
    found = hlo.traffic(text, {"data": 8, "expert": 1, "model": 1})
    times, sent = found["all-reduce", "data"]
    assert times in (15, 16)  # the compiler may merge the last two
    assert sent == times * hlo.wire_bytes("all-reduce", 16, 8)


def test_a_loop_that_does_not_tell_is_an_error():
    text = """HloModule m
%cond (p: (f32[])) -> pred[] {
  ROOT %lt = pred[] compare(%a, %b), direction=LT
}
%body (p: (f32[])) -> (f32[]) {
  ROOT %t = (f32[]) tuple(%x)
}
ENTRY %main (x: f32[]) -> f32[] {
  %w = (f32[]) while(%t), condition=%cond, body=%body
}
"""
    with pytest.raises(ValueError, match="how often does this loop run"):
        hlo.traffic(text, MESH)


def test_products_of_loops_and_of_the_dearest_branch():
    x = jnp.ones((4, 8))
    w = jnp.ones((8, 8))
    once = 2 * 4 * 8 * 8

    def flops(fn, *args):
        return hlo.products(jax.jit(fn).lower(*args).compile().as_text())

    def loop(x, w):
        return jax.lax.scan(lambda x, _: (x @ w, None), x, length=5)[0]

    def branch(x, w, i):
        return jax.lax.switch(i, [lambda: x, lambda: x @ w, lambda: x @ w @ w])

    assert flops(loop, x, w) == 5 * once
    assert flops(branch, x, w, 0) == 2 * once
