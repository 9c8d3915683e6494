"""FLOPs from jaxprs, against closed forms and against XLA's own count."""

import functools

import jax
import jax.numpy as jnp
import pytest

from moe import counting, models
from moe.batch import Batch
from moe.training import gradients
from tests import tiny


def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def count(fn, *shapes):
    return counting.count(fn, *(array(*shape) for shape in shapes))


def matmul(x, w):
    return x @ w


def test_products():
    assert count(matmul, (3, 5), (5, 7)).total == 2 * 3 * 5 * 7
    batched = functools.partial(jnp.einsum, "bij,bjk->bik")
    assert count(batched, (4, 3, 5), (4, 5, 7)).total == 4 * 2 * 3 * 5 * 7


def test_a_convolution():
    def conv(x, w):
        return jax.lax.conv_general_dilated(x, w, (1, 1), "VALID")

    # [batch 2, in 3, 8, 8] by [out 5, in 3, 3, 3] -> [2, 5, 6, 6]
    assert count(conv, (2, 3, 8, 8), (5, 3, 3, 3)).total == 2 * (2 * 5 * 6 * 6) * 3 * 9


def test_a_gradient_costs_twice_the_product_again():
    fn = jax.grad(lambda w, x: jnp.sum(matmul(x, w) ** 2), (0, 1))
    assert count(fn, (5, 7), (3, 5)).total == 3 * 2 * 3 * 5 * 7


def test_elementwise_operations_and_reductions_are_apart():
    flops = count(lambda x: jnp.sum(jnp.exp(x) + x), (6, 4))
    assert flops.total == 0 and flops.everything == 3 * 24


def test_moving_data_is_free():
    def fn(x):
        y = jnp.concatenate([x.T[::-1], jnp.zeros((4, 6))]).reshape(-1)
        return y[jnp.array([3, 1])].astype(jnp.bfloat16)

    assert count(jax.jit(fn), (6, 4)).everything < 10  # the index arithmetic of a gather


@pytest.mark.parametrize(
    ("fn", "cost"), [(jnp.sort, 16 * 4), (jnp.cumsum, 16), (jnp.max, 16), (jnp.argmax, 16)]
)
def test_what_operations_cost(fn, cost):
    """n log2 n a sort, whose order jax may have to make, else one a number read."""
    assert cost <= count(jax.jit(fn), (16,)).everything <= cost + 1


def test_a_scatter_adds_as_often_as_it_has_summands():
    def scatter(x):
        return jnp.zeros((99, 8)).at[jnp.arange(16)].add(x)

    assert 16 * 8 <= count(scatter, (16, 8)).everything <= 16 * 8 + 4 * 16


def test_a_scan_costs_its_length():
    def scanned(x, w):
        return jax.lax.scan(lambda x, _: (matmul(x, w), None), x, length=9)[0]

    assert count(scanned, (3, 5), (5, 5)).total == 9 * 2 * 3 * 5 * 5

    def looped(x, w):
        return jax.lax.fori_loop(0, 9, lambda _, x: matmul(x, w), x)

    assert count(looped, (3, 5), (5, 5)).total == 9 * 2 * 3 * 5 * 5


def test_nested_scans_multiply_and_gradients_follow():
    def nested(x, w):
        def inner(x, _):
            return matmul(x, w), None

        def outer(x, _):
            return jax.lax.scan(inner, x, length=3)

        return jax.lax.scan(outer, x, length=4)[0]

    once = 2 * 3 * 5 * 5
    assert count(nested, (3, 5), (5, 5)).total == 12 * once
    gradient = jax.grad(lambda x, w: nested(x, w).sum(), (0, 1))
    assert count(gradient, (3, 5), (5, 5)).total == 3 * 12 * once


def test_remat_costs_another_forward_pass():
    def two(x, w):
        return jnp.sin(jnp.sin(x @ w) @ w)

    once = 2 * 3 * 5 * 5
    plain, again = (
        jax.value_and_grad(lambda x, w, f=f: f(x, w).sum(), (0, 1)) for f in (two, jax.remat(two))
    )
    assert count(plain, (3, 5), (5, 5)).total == 3 * 2 * once
    assert count(again, (3, 5), (5, 5)).total == 4 * 2 * once


def test_the_dearest_branch_of_a_cond():
    def fn(x, w):
        return jax.lax.cond(x[0, 0] > 0, lambda: matmul(x, w), lambda: matmul(matmul(x, w), w))

    assert count(fn, (3, 5), (5, 5)).total == 2 * 2 * 3 * 5 * 5


def test_a_while_loop_is_refused():
    def fn(x, w):
        return jax.lax.while_loop(lambda x: x[0, 0] < 9, lambda x: matmul(x, w), x)

    with pytest.raises(ValueError, match="FLOPs of a while cannot be counted: .* use scan"):
        count(fn, (3, 5), (5, 5))
    with pytest.raises(ValueError, match="of a while"):
        count(jax.jit(lambda x, w: fn(x, w) + 1), (3, 5), (5, 5))


def test_a_product_without_a_rule_is_refused():
    """Counted as one FLOP a result, experts behind a ragged product would cost nothing."""
    sizes = jax.ShapeDtypeStruct((4,), jnp.int32)
    shapes = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((8, 5), (4, 5, 6)))
    with pytest.raises(ValueError, match="FLOPs of a ragged_dot.* cannot be counted: .* `_cost`"):
        counting.count(jax.lax.ragged_dot, *shapes, sizes)


def test_what_nobody_reads_is_free():
    assert count(lambda x, w: (matmul(x, w), x)[1], (3, 5), (5, 5)).everything == 0
    assert count(jax.jit(lambda x, w: (matmul(x, w), x)[1]), (3, 5), (5, 5)).everything == 0


def test_custom_gradients():
    @jax.custom_vjp
    def double(x, w):
        return matmul(x, w)

    double.defvjp(lambda x, w: (matmul(x, w), w), lambda w, g: (g @ w.T @ w @ w.T, w))
    assert count(double, (3, 5), (5, 5)).total == 2 * 75
    gradient = jax.value_and_grad(lambda x, w: double(x, w).sum())
    assert count(gradient, (3, 5), (5, 5)).total == 4 * 2 * 75


@pytest.mark.parametrize("mesh", ["2x4", "8x1"])
def test_a_shard_map_runs_on_all_devices(mesh):
    """As much as without a mesh, when the work is divided; all of it, when it is repeated."""
    P = jax.sharding.PartitionSpec
    with tiny.on(mesh):
        split = P(("data", "expert"))
        divided = jax.shard_map(matmul, in_specs=(split, P()), out_specs=split)
        repeated = jax.shard_map(matmul, in_specs=(P(), P()), out_specs=P())
        shapes = [
            jax.ShapeDtypeStruct(shape, jnp.float32, sharding=jax.NamedSharding(m, P()))
            for m in [jax.sharding.get_abstract_mesh()]
            for shape in [(16, 5), (5, 5)]
        ]
        spread = jax.ShapeDtypeStruct(
            (16, 5),
            jnp.float32,
            sharding=jax.NamedSharding(jax.sharding.get_abstract_mesh(), split),
        )
        assert counting.count(divided, spread, shapes[1]).total == 2 * 16 * 5 * 5
        assert counting.count(repeated, *shapes).total == 8 * 2 * 16 * 5 * 5


@pytest.mark.parametrize(
    ("scope", "part"),
    [
        ("jit(f)/transpose(jvp(Decoder))/block/layer_1/moe/router/dot", "router"),
        ("block/layer_0/attention/attention_norm", "attention"),
        ("experts/dispatch", "dispatch"),
        ("block/layer_0/ffn_norm", "other"),
        ("", "other"),
    ],
)
def test_the_innermost_part_counts(scope, part):
    assert counting.part_of(scope) == part


def test_parts_by_named_scope_keep_their_name_in_gradients():
    def fn(x, w):
        with jax.named_scope("router"):
            x = x @ w
        with jax.named_scope("experts"):
            return jnp.sum((x @ w) ** 2)

    flops = count(jax.jit(jax.grad(fn, (0, 1))), (3, 5), (5, 5))
    assert flops.products == {"router": 3 * 150, "experts": 3 * 150}


@pytest.mark.parametrize(
    ("dispatcher", "changes"),
    [
        *(
            (dispatcher, {"remat": remat})
            for dispatcher in ("gather", "einsum")
            for remat in (False, True)
        ),
        ("gather", {"num_layers": 4, "scan_unroll": 2}),
    ],
)
def test_within_1_percent_of_xla(dispatcher, changes):
    """A scan of one turn, or unrolled, which XLA counts right. Wide, for products."""
    experts = tiny.moe_config(num_experts=4, k=2, d_ff=256, dispatcher=dispatcher)
    config = tiny.model(
        vocab_size=512, d_model=128, num_heads=4, d_head=32, d_ff=256, experts=experts, **changes
    )
    task = tiny.task_of(config)

    def step(params, key, *fields):
        return gradients.value_and_grad(task, params, {}, Batch(*fields), key)

    ids = jax.ShapeDtypeStruct((4, 64), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    arguments = models.parameter_shapes(config), key, ids, ids, ids, ids
    ours = counting.count(step, *arguments).everything
    theirs = jax.jit(step).lower(*arguments).cost_analysis()["flops"]
    assert abs(ours / theirs - 1) < 0.01


def test_products_are_listed_by_shape_with_their_turns():
    """A scan of three, one product outside, and a loop whose turns data decide."""

    def fn(x, w, turns):
        y, _ = jax.lax.scan(lambda x, _: (x @ w, None), x, length=3)
        with jax.named_scope(counting.AS_NEEDED):
            y = jax.lax.fori_loop(0, turns, lambda _, y: y @ w, y)
        return y, (x.T @ x).astype(jnp.bfloat16)

    found = counting.products(fn, jnp.ones((5, 4)), jnp.ones((4, 4)), 2)
    shapes = {tuple(shape for shape, _ in product.of): times for product, times in found.items()}
    assert shapes == {((5, 4), (4, 4)): 3, ((4, 5), (5, 4)): 1}
    assert counting.count(fn, jnp.ones((5, 4)), jnp.ones((4, 4)), 2).total == 2 * (3 * 80 + 80)
