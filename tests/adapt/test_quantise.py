"""QMoE: rounding that makes up for itself, codewords near the entropy, a file that is data."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.adapt import banks, coding, observing, packed, ternary
from tests import tiny
from tests.adapt import cases
from tests.models import test_encoder_decoder as both

COUNTS = (150, 700, 150)


def test_the_dictionary_by_hand():
    """Three bits: the most probable leaf is extended as long as eight sequences suffice."""
    book = coding.dictionary((1, 8, 1), bits=3)
    found = [tuple(row[:n]) for row, n in zip(book.symbol_NJ, book.length_N, strict=True)]
    assert found == [(0,), (1, 0), (1, 1, 0), (1, 1, 1), (1, 1, 2), (1, 2), (2,)]


def test_the_dictionary_is_a_whole_tree():
    """No sequence begins another, and every text is a row of them."""
    book = coding.dictionary(COUNTS)
    assert 2**16 - 2 <= len(book.length_N) <= 2**16
    assert sum(3.0 ** -book.length_N.astype(float)) == pytest.approx(1.0)
    rows = sorted(
        tuple(row[:n]) for row, n in zip(book.symbol_NJ, book.length_N.tolist(), strict=True)
    )
    assert not any(b[: len(a)] == a for a, b in itertools.pairwise(rows))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=200), st.integers(1, 4))
def test_there_and_back(symbols, streams):
    book = coding.dictionary(COUNTS)
    rows = np.array([np.roll(symbols, i) for i in range(streams)], np.uint8)
    for row, codes in zip(rows, coding.encode(book, rows), strict=True):
        np.testing.assert_array_equal(coding.decode(book, codes, len(row)), row)
        with pytest.raises(ValueError, match="codewords: expected"):
            coding.decode(book, np.append(codes, codes), len(row))


@pytest.mark.parametrize(("zeros", "excess"), [(0.4, 0.02), (0.6, 0.02), (0.7, 0.02), (0.9, 0.05)])
def test_the_rate_is_near_the_entropy(zeros, excess):
    """Of a million weights that are drawn apart."""
    rng = np.random.default_rng(0)
    rows = rng.choice(3, p=[(1 - zeros) / 2, zeros, (1 - zeros) / 2], size=(64, 16_384))
    counts = tuple(np.bincount(rows.ravel(), minlength=3).tolist())
    codes = coding.encode(coding.dictionary(counts), rows.astype(np.uint8))
    bits = 16 * sum(map(len, codes)) / rows.size
    assert 1.0 <= bits / coding.entropy(counts) < 1 + excess


def nearest(w_RC, low_R1, high_R1):
    """Of a row's three values, by trying all; of two as near 0."""
    values = np.stack(np.broadcast_arrays(0 * w_RC, low_R1, high_R1))
    best = np.abs(values - w_RC).argmin(0)
    return np.take_along_axis(values, best[None], axis=0)[0]


def ends(w_RC):
    return w_RC.min(1, keepdims=True), w_RC.max(1, keepdims=True)


def by_brain_surgeon(w_RC, h_CC):
    """GPTQ by its definition: what is left is moved to its best after each column."""
    w_RC = w_RC.astype(np.float64).copy()
    low, high = ends(w_RC)
    h_CC = h_CC + 0.1 * np.trace(h_CC) / len(h_CC) * np.eye(len(h_CC))
    found = np.zeros_like(w_RC)
    for j in range(len(h_CC)):
        w_R1 = w_RC[:, j : j + 1]
        q_R1 = nearest(w_R1, low, high)
        found[:, j : j + 1] = q_R1
        inverse = np.linalg.inv(h_CC[j:, j:])
        w_RC[:, j:] -= (w_R1 - q_R1) / inverse[0, 0] * inverse[:1]
    return found


@pytest.fixture
def problem():
    """Weights that bfloat16 holds, and inputs that are alike."""
    rng = np.random.default_rng(0)
    w_RC = np.round(rng.normal(size=(12, 16)) * 16) / 16
    x_NC = rng.normal(size=(64, 4)) @ rng.normal(size=(4, 16)) + 0.3 * rng.normal(size=(64, 16))
    return w_RC.astype(np.float32), (x_NC.T @ x_NC).astype(np.float32)


def weights_of(symbol, grid):
    return ternary.Ternary(np.asarray(symbol, np.uint8), np.asarray(grid)).weights()


def test_rounding_makes_up_for_what_it_loses(problem):
    w_RC, h_CC = problem
    got = weights_of(*ternary.rounded(w_RC, h_CC))
    tiny.assert_close(got, by_brain_surgeon(w_RC, h_CC))
    errors = [((q - w_RC) @ h_CC * (q - w_RC)).sum() for q in (got, nearest(w_RC, *ends(w_RC)))]
    assert errors[0] < 0.8 * errors[1]


def test_without_inputs_to_the_nearest(problem):
    w_RC, h_CC = problem
    w_RC[0], w_RC[1] = np.abs(w_RC[0]) + 0.5, -np.abs(w_RC[1]) - 0.5  # of one sign
    got = weights_of(*ternary.rounded(w_RC, 0 * h_CC))
    tiny.assert_close(got, nearest(w_RC, *ends(w_RC)))
    assert got[0].min() == w_RC[0].min() and got[1].max() == w_RC[1].max()


@pytest.fixture(scope="module")
def made():
    trained = cases.trained(activation="swiglu")
    batches = [tiny.inputs(seed=i) for i in range(4)]

    def look(measure, model):
        return observing.observe(model, batches, measure)

    return trained, *ternary.quantised(trained, look)


def test_every_expert_of_every_layer_is_rounded(made):
    trained, quantised, layers = made
    (before,), (after,) = banks.of(trained), banks.of(quantised)
    for name, w in after["experts"].items():
        rows = np.asarray(w).swapaxes(-1, -2).reshape(-1, w.shape[-2])
        assert max(len(np.unique(row)) for row in rows) <= 3, name
    want = sum(w.size for w in before["experts"].values())
    assert sum(m.symbol.size for layer in layers for m in layer.values()) == want
    assert 0.2 < ternary.zeros(layers) < 0.9
    assert np.isfinite(cases.logits(quantised)).all()


def test_a_file_decodes_bit_for_bit(made, tmp_path):
    trained, quantised, layers = made
    said = packed.write(tmp_path / "experts.npz", layers)
    back = packed.read(tmp_path / "experts.npz")
    for ours, theirs in zip(back, layers, strict=True):
        for name, want in theirs.items():
            np.testing.assert_array_equal(ours[name].symbol, want.symbol)
            np.testing.assert_array_equal(ours[name].weights(), want.weights())
    loaded = ternary.with_layers(trained, dict(enumerate(back)))
    tiny.assert_equal(tiny.host(loaded.params), tiny.host(quantised.params))
    assert said["weights"] == 2 * 8 * 3 * 8 * 8 and said["entropy"] <= said["bits"]
    size = (tmp_path / "experts.npz").stat().st_size
    assert 8 * size / said["weights"] >= said["bits_with_grids"]


def test_a_damaged_file_is_refused(made, tmp_path):
    """Whichever of its bytes is another, or if it ends early; nothing of it runs."""
    path = tmp_path / "experts.npz"
    packed.write(path, made[2])
    whole = path.read_bytes()
    want = packed.read(path)
    harmless = 0
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 64]) + whole[place + 1 :])
        try:
            found = packed.read(path)
        except ValueError as error:
            assert "or is damaged" in str(error), error
        else:  # a byte of the archive that says nothing, such as a date
            harmless += 1
            for ours, theirs in zip(found, want, strict=True):
                jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert harmless < 0.2 * len(whole) / 97
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is no file of packed experts, or is damaged"):
        packed.read(path)
    np.savez(path, codes=np.array([object()]), allow_pickle=True)
    with pytest.raises(ValueError, match="is no file of packed experts, or is damaged"):
        packed.read(path)
    with pytest.raises(ValueError, match="there is no"):
        packed.read(tmp_path / "nothing.npz")


def test_an_encoder_and_a_decoder(tmp_path):
    """Layers are counted through both stacks, and each is rounded by what reaches it."""
    config = both.config()
    trained = banks.Trained(config, both.params(config), {})
    looks = []

    def look(measure, model):
        looks.append(banks.by_layer(model))
        return observing.observe(model, [both.batch()], measure)

    quantised, layers = ternary.quantised(trained, look)
    places = banks.places(config)
    assert [number for number, _ in places] == [0, 1] and len(layers) == len(looks) == 2
    for layer, matrices in enumerate(layers):
        for name, made in matrices.items():
            got = np.asarray(banks.by_layer(quantised)[layer][name]).swapaxes(-1, -2)
            np.testing.assert_array_equal(got, made.weights())
    tiny.assert_equal(looks[1][0], tiny.host(banks.by_layer(quantised)[0]))
    tiny.assert_equal(looks[1][1], tiny.host(banks.by_layer(trained)[1]))
    packed.write(tmp_path / "experts.npz", layers)
    back = packed.read(tmp_path / "experts.npz")
    ternary.check_fit(trained, back)
    for ours, theirs in zip(ternary.layers_of(quantised), back, strict=True):
        for name, want in theirs.items():
            np.testing.assert_array_equal(ours[name].weights(), want.weights())
