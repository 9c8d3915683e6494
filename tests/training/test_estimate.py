"""What memory holds, and who shares it."""

import jax
import numpy as np
import pytest

from moe import hlo, sharding
from moe.errors import UserError
from moe.training import estimate, loop, processes, room, starting
from tests.training import toys

pytestmark = pytest.mark.usefixtures("programs")


def test_a_step_that_no_memory_holds_is_refused_before_it_runs(tmp_path, data, monkeypatch):
    """Where activations are what is too much; the kernel would kill the run without a word."""
    run = toys.run_config(model={"experts": None, "d_ff": 8})
    with sharding.on(loop.mesh_of(run), run.mesh.zero):
        state = starting.scratch(run, data)
        held = hlo.held_bytes(loop.compiled(run, state, data))
    assert held > 2 * estimate.bytes_per_device(state)
    monkeypatch.setattr(room, "_memory", lambda devices: (held - 1, "it"))
    with pytest.raises(
        UserError, match=r"a training step needs .* GiB a device .* train.batch_size"
    ):
        loop.train(run, tmp_path)


@pytest.mark.parametrize("host", ["node0", "gpu01"])  # the first's hash has 32 bits
def test_processes_of_one_host_share_its_memory(monkeypatch, host):
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(processes.platform, "node", lambda: host)

    def gather(mine):
        assert mine.dtype == np.int32  # as JAX would make it
        return np.stack([mine, mine, mine + 1])

    monkeypatch.setattr(processes.multihost_utils, "process_allgather", gather)
    processes.on_this_host.cache_clear()
    found = processes.on_this_host()
    processes.on_this_host.cache_clear()
    assert found == 2


@pytest.mark.parametrize("said", ["1000\n", "max\n"])
def test_a_container_has_less_than_its_host(tmp_path, monkeypatch, said):
    """What Linux lets it use counts, if that is a number."""
    path = tmp_path / "memory.max"
    path.write_text(said)
    monkeypatch.setattr(room, "CONTAINER", (path, tmp_path / "none"))
    limit, _ = room._memory(jax.devices()[:1])
    assert limit == 1000 if said == "1000\n" else limit > 1e8
    processes.on_this_host.cache_clear()
    monkeypatch.setenv(processes.JOBS, "2")
    shared, _ = room._memory(jax.devices()[:1])
    processes.on_this_host.cache_clear()
    assert shared == limit / 2
