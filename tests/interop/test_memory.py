"""What the host holds while a checkpoint is read."""

import gc
import tracemalloc

import jax
import pytest

from moe import interop, models, paths
from moe.config import ModelConfig
from moe.interop import decoder
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Mixtral of 25M parameters in two files."""
    fields = {
        "vocab_size": 4096, "num_layers": 4, "moe_every": 1, "d_model": 256, "num_heads": 4,
        "num_kv_heads": 4, "d_head": 64, "d_ff": 1024, "activation": "swiglu",
        "scale_embedding": False, "tie_embeddings": False, "dtype": "float32",
        "experts": decoder.experts(4, 1024, 2, True), "norm_epsilon": 1e-5,
    }  # fmt: skip
    config = ModelConfig(**fields)
    path = tmp_path_factory.mktemp("mixtral") / "checkpoint"
    interop.save(
        path, config, models.init(config, jax.random.key(0)), "mixtral", max_file_bytes=60_000_000
    )
    return path


@pytest.mark.parametrize("mesh", ["none", "1x4x1"])
def test_one_tensor_and_one_shard(folder, mesh):
    """Of NumPy's arrays, but for those that stay."""
    with tiny.on(mesh):
        interop.load(folder)  # compiles, imports
        gc.collect()
        tracemalloc.start()
        config, params = interop.load(folder)
        kept, peak = tracemalloc.get_traced_memory()  # a CPU's device may keep NumPy's arrays
        tracemalloc.stop()
        shapes = paths.named(models.parameter_shapes(config))
    whole = sum(4 * x.size for x in shapes.values())
    spread = 4 if mesh != "none" else 1
    sizes = (4 * x.size // (spread if "experts" in name else 1) for name, x in shapes.items())
    shard = max(sizes)
    tensor = 4 * 4096 * 256
    assert peak - kept < shard + tensor + 2**20 < whole / 2
    assert sum(x.nbytes for x in jax.tree.leaves(params)) == whole
