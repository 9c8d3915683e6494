"""The names that earlier versions wrote into files, and what they are called today.

Recorded results and old run folders keep the names that they were written with; whoever reads them
passes them through here. This is the only place that knows an old name.
"""

from moe import config as configs
from moe import routing

OPTIONS = {"rounds": "reroute_rounds"}  # of the routers' options
MODEL_FIELDS = {"moe": "experts", "every": "moe_every", "tied": "tie_embeddings"}
MESH_FIELDS = {"kernel": "implementation", "buffer": "ep_capacity_factor"}
METRICS = {"missed": "unrouted"}
ARRAYS = {"hidden": "mask_embedding", "routing": "router_state"}  # of checkpoints


def renamed(content: dict, names: dict[str, str]) -> dict:
    """The dictionary with today's names for its keys; keys without an entry stay as they are."""
    return {names.get(key, key): value for key, value in content.items()}


def run_config(content: dict) -> dict:
    """The content of a run's config.json in today's names."""
    content = dict(content)
    content["mesh"] = renamed(content.get("mesh", {}), MESH_FIELDS)
    model = renamed(content["model"], MODEL_FIELDS)
    if model.pop("bidirectional", False):  # once meant both: sees all, and learns masked tokens
        model |= {"causal": False, "mask_embedding": True}
        content["objective"] = {"name": "masked_token"}
    if model.get("experts"):
        experts = dict(model["experts"])
        if experts.get("options"):
            experts["options"] = renamed(experts["options"], OPTIONS)
        model["experts"] = _what_its_router_reads(experts)
    content["model"] = model
    if content["mesh"].get("implementation") == "blocks":
        del content["mesh"]["implementation"]  # the default once, written where nothing reads it
    return content


def _what_its_router_reads(experts: dict) -> dict:
    """Fields that the router does not read may once stand there with any value: now they are 0."""
    read = routing.ROUTERS[experts["router"]].common
    idle = {name for name in configs.COMMON if name in experts and name not in read}
    return experts | dict.fromkeys(idle, 0.0)


def saved_path(path: str) -> str:
    """The path of an array of a checkpoint in today's names."""
    return "/".join(ARRAYS.get(part, part) for part in path.split("/"))


def metrics(record: dict) -> dict:
    """A record of metrics.jsonl, or the metrics of result.json, in today's names."""
    return renamed(record, METRICS)
