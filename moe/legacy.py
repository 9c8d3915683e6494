"""The names that earlier versions wrote into files, and what they are called today.

Recorded results and old run folders keep the names that they were written with; whoever reads them
passes them through here. This is the only place that knows an old name.
"""

MOE_FIELDS = {}  # of MoEConfig
OPTIONS = {"rounds": "reroute_rounds"}  # of the routers' options
MODEL_FIELDS = {"moe": "experts", "every": "moe_every", "tied": "tie_embeddings"}
MESH_FIELDS = {"kernel": "implementation", "buffer": "ep_capacity_factor"}
METRICS = {"missed": "unrouted"}


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
        experts = renamed(model["experts"], MOE_FIELDS)
        if experts.get("options"):
            experts["options"] = renamed(experts["options"], OPTIONS)
        model["experts"] = experts
    content["model"] = model
    return content


def metrics(record: dict) -> dict:
    """A record of metrics.jsonl, or the metrics of result.json, in today's names."""
    return renamed(record, METRICS)
