"""Which router learns best? All of them at equal executed FLOPs, and the papers' claims beside.

    python -m experiments.routers --config=configs/routers.py:demo

Two studies as those of `experiments.scaling`, one in each setting (`configs/routers.py`), both
resumable; then a table and a figure of each, and every claim of a paper that the variants can test.
"""

import pathlib
from collections.abc import Iterable

from absl import flags
from ml_collections import ConfigDict

from experiments import command, scaling, study
from moe.analysis import plots, routers
from moe.analysis.routers import Claim

BASELINE = "top_1"  # of tables and speeds: Switch

CLAIMS = {
    "decoder": (
        Claim("Roller et al. 2021", "balanced hash beats Switch", "hash_balanced", "top_1"),
        Claim("Roller et al. 2021", "balanced hash beats random hash", "hash_balanced",
              "hash_random"),
        Claim("Roller et al. 2021", "random hash beats clustered", "hash_random", "hash_clustered"),
        Claim("Roller et al. 2021", "MultiHash beats one hash", "multihash_2", "hash_balanced"),
        Claim("Lewis et al. 2021", "BASE beats Switch", "base", "top_1"),
        Claim("Clark et al. 2022", "S-BASE beats RL-R", "sinkhorn_1", "reinforce"),
        Claim("Clark et al. 2022", "S-BASE beats hashes", "sinkhorn_1", "hash_random"),
        Claim("Wang et al. 2024", "a bias beats the balance loss", "sigmoid_2", "sigmoid_2_loss"),
        Claim("Huang et al. 2024", "as many as needed beats two (theirs: downstream)", "top_p",
              "top_2"),
        Claim("Fedus et al. 2021", "experts beat dense at equal FLOPs", "top_1", "dense"),
    ),
    "masked": (
        Claim("Zhou et al. 2022", "expert choice learns twice as fast as GShard",
              "expert_choice_2", "gshard", 2.0),
        Claim("Zhou et al. 2022", "expert choice learns twice as fast as Switch",
              "expert_choice_2", "top_1", 2.0),
        Claim("Zhou et al. 2022", "a cap at two experts costs quality (theirs: downstream)",
              "expert_choice_2", "expert_choice_2_capped"),
        Claim("Puigcerver et al. 2023", "Soft MoE beats expert choice (theirs: images)",
              "soft_by_sequence", "expert_choice_2_by_sequence"),
    ),
}  # fmt: skip


def report(
    records: list[dict], root: pathlib.Path, baseline: str, said: Iterable[Claim] = ()
) -> None:
    """Prints and writes a study's table, claims and figure, says where they are."""
    text = f"{routers.table(records, baseline)}\n"
    if not any(record["variant"] == baseline for record in records):
        print(text)
        return
    if said:
        text += f"\n{routers.claims(records, said)}\n"
    (root / "table.md").write_text(text)
    plots.save(plots.routers_figure(records, baseline), root / "routers.png")
    print(f"\n{text}")
    for file in ("results.jsonl", "table.md", "routers.png"):
        print(root / file)


def main(config: ConfigDict, workdir: str) -> None:
    """Both studies, one after the other."""
    root = pathlib.Path(workdir or f"runs/{config.name}")
    for name in CLAIMS:
        part = config[name]
        seeds = study.seeds_of(part)
        records = study.run(scaling.variants(part), root / name, seeds, part.jobs)
        report(records, root / name, BASELINE, CLAIMS[name])


if __name__ == "__main__":
    CONFIG = command.config("configs/routers.py:demo", "The studies.")
    WORKDIR = flags.DEFINE_string("workdir", "", "Their folder; default runs/<config.name>.")
    command.run(lambda: main(CONFIG.value, WORKDIR.value))
