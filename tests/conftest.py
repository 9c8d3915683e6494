"""Strict everywhere: 8 simulated CPU devices, no silent rank promotion, warnings are errors."""

import gc
import importlib.metadata
import os
import pathlib
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
# Programs run for milliseconds and compile for seconds: optimizations are left out.
FLAGS = {
    "xla_force_host_platform_device_count": 8,
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_emitter_verification_level": 0,
}
if importlib.metadata.version("jaxlib").startswith("0.10."):
    FLAGS["xla_cpu_use_fusion_emitters"] = False  # compiles in half the time; 0.12 has no choice
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        *(f"--{name}={value}".lower() for name, value in FLAGS.items()),
    ]
)
# Where in the source an operation comes from is written a thousand times, and read by nobody.
os.environ.setdefault("JAX_INCLUDE_FULL_TRACEBACKS_IN_LOCATIONS", "0")
# Equal programs are compiled once in a session, by whichever test process needs them first.
PROGRAMS = tempfile.TemporaryDirectory(prefix="moe-tests-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", PROGRAMS.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.02")

gc.set_threshold(50_000, 50, 100)  # importing and tracing make many objects that live long

import jax  # noqa: E402, it reads the environment
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
assert jax.device_count() == 8, "the tests need 8 simulated devices"


MAPS = pathlib.Path("/proc/self/maps")  # of this process's memory, on Linux
MOST_MAPS = 50_000


@pytest.fixture(autouse=True, scope="module")
def few_programs():
    """Lets go of compiled programs when there are many.

    Each takes maps of memory, of which Linux gives a process 65,530; beyond them XLA aborts. The
    programs that are needed again come from the cache on disk.
    """
    yield
    if MAPS.exists() and len(MAPS.read_bytes().splitlines()) > MOST_MAPS:
        jax.clear_caches()
        gc.collect()
