"""A trained or published model made into another: pruned, merged, upcycled, without training.

    python -m experiments.adapt --workdir=runs/train --how=prune_reap --experts=8 --out=runs/pruned
    python -m experiments.adapt --workdir=runs/train --how=merge_aligned --experts=0 --out=runs/one
    python -m experiments.adapt --workdir=runs/train --how=qmoe --out=runs/qmoe
    python -m experiments.adapt --workdir=runs/dense --how=upcycle --experts=8 --k=2 --out=runs/moe
    python -m experiments.adapt --workdir=runs/demix --how=domains --of_domains=code --out=runs/code

`--workdir` is a run's folder, or a published checkpoint's; `--out` becomes the same kind of folder,
which everything reads that reads the first. Methods are those of `moe.adapt.METHODS`.
"""

import contextlib
import pathlib

import jax
import numpy as np
from absl import flags

from experiments import command, opened, sources
from moe import adapt, flops, schema, sealed, sharding
from moe.adapt import banks, domains, observing, packed, place, ternary
from moe.adapt.banks import Trained
from moe.training import folders, moments
from moe.training.config import MeshConfig

PACKED = "experts.npz"
USUAL = "encyclopedia_en"  # what a published model looks at
SENT = 2  # bytes of a number that is sent, bfloat16
RANDOM = 100  # placements beside which the best one is shown


def main(source: sources.Source, how: str, ask: adapt.Ask, out: pathlib.Path, about: dict) -> None:
    """Adapts, compares with before, writes and says where."""
    taken = folders.exists(out) or (out / "config.json").exists()
    schema.require(not taken, f"--out={out} holds a model already: name another folder")
    _check_mesh(source, ask)
    made = adapt.METHODS[how].apply(source.trained, ask)
    before, after = (
        observing.loss(one, text, source.objective)
        for one, text in zip((source.trained, made), _texts(source, ask), strict=True)
    )
    sizes = [flops.parameters(one.model).total for one in (source.trained, made)]
    source.save(made, out, _carried(source, how, ask))
    found = {"loss_before": before, "loss": after, "parameters_before": sizes[0]}
    if how == "qmoe":
        found |= _packed(made, out / PACKED)
    if how == "place":
        found |= _left(source.trained, ask)
    sealed.write_json(out / "adapted.json", about | found | {"parameters": sizes[1]}, indent=2)
    print(f"parameters: {sizes[0]:,} before, {sizes[1]:,} now")
    print(f"loss on {len(source.batches)} batches, nats: {before:.4f} before, {after:.4f} now")
    print(out)


def _texts(source, ask):
    """What the model before and the one afterwards are judged by: text of the domains that stay."""
    if not ask.of_domains:
        return source.batches, source.batches
    heard = [domains.only(batch, ask.of_domains) for batch in source.batches]
    return heard, [domains.renumbered(batch, ask.of_domains) for batch in heard]


def _carried(source, how, ask):
    """The optimizer's moments for the new model, if it can have them."""
    moment = adapt.METHODS[how].moment
    if source.adam is None or moment is None:
        return None
    count, *parts = source.adam
    made = [moment(source.trained._replace(params=part), ask) for part in parts]
    found = [one.params for one in made if one is not None]
    return moments.Adam(count, *found) if found else None


def _check_mesh(source, ask):
    """Refuses what the mesh does not divide."""
    if not sharding.current():
        return
    rows = len(source.batches[0].segment_BT)
    needs: dict[str, tuple[int, tuple[str, ...]]] = {"rows of a batch": (rows, sharding.TOKENS)}
    experts = source.trained.model.experts
    if experts is not None:
        needs["experts"] = (experts.num_experts, ("expert",))
    if ask.experts:
        needs["--experts"] = (ask.experts, ("expert",))
    sharding.check(jax.sharding.get_mesh(), needs)


def _packed(made, path):
    """Writes the file of experts, says how large it is."""
    found = packed.write(path, ternary.layers_of(made))
    print(
        f"{path}: {found['bits']:.3f} bits a weight, with grids {found['bits_with_grids']:.3f};"
        f" {found['zeros']:.1%} zeros, of which the entropy is {found['entropy']:.3f}"
    )
    return found


def _left(trained, ask):
    """The share of choices that leave their device, before, now, and by chance."""
    rng = np.random.default_rng(ask.seed)
    count_LZE = adapt.seen_by_device(trained, ask)
    L, Z, E = count_LZE.shape
    drawn = [place.leaving(count_LZE, place.drawn(L, E, Z, rng)) for _ in range(RANDOM)]
    shares = {
        "leaving_before": place.leaving(count_LZE, place.as_it_is(L, E, Z)),
        "leaving": place.leaving(count_LZE, place.best(count_LZE)),
        "leaving_random": float(np.mean(drawn)),
        "leaving_random_least": min(drawn),
    }
    experts = banks.experts(trained.model)
    factor = MeshConfig.ep_capacity_factor if experts.dropless else experts.eval_capacity_factor
    sent = {f"bytes_{name}": place.row_bytes(trained.model, x, SENT) for name, x in shares.items()}
    buffers = {"bytes_buffers": place.buffer_bytes(trained.model, Z, factor, SENT)}
    found = shares | sent | (buffers if factor else {})
    print(
        f"choices that leave their device: {found['leaving_before']:.1%} before,"
        f" {found['leaving']:.1%} now; placed at random {found['leaving_random']:.1%}, at best"
        f" {min(drawn):.1%} of {RANDOM}; their bytes a token and layer, in bfloat16:"
        f" {found['bytes_leaving_before']:,.0f} before, {found['bytes_leaving']:,.0f} now"
    )
    if factor:
        said = f"{found['bytes_buffers']:,.0f}"
        print(f"a mesh with buffers of a fixed size sends {said}, wherever experts lie")
    return found


def adapted(workdir: str, out: str, how: str, number: int, domain: str, text: str, **asked) -> None:
    """What the flags say, on the current mesh."""
    schema.require(bool(out), "--out= is empty: name a folder for the new model")
    schema.one_of("--how", how, adapt.METHODS)
    adapt.refuse_idle(how, domain, **asked)
    folder = pathlib.Path(workdir)
    published = opened.published(folder)
    schema.require(
        published or text == USUAL, f"--text={text} does nothing with a run: it has its own"
    )
    source = (
        sources.of_checkpoint(folder, number, text)
        if published
        else sources.of_run(folder, number, asked["of_domains"])
    )
    if published and (how == "upcycle" or (how.startswith("merge") and not asked["experts"])):
        sources.family_of(folder, sparse=how == "upcycle")
    wanted = -1
    if domain:
        schema.one_of("--domain", domain, source.domains)
        wanted = source.domains.index(domain)

    def look(measure: observing.Measure, trained: Trained, domain: int = wanted) -> object:
        return observing.observe(trained, source.batches, measure, domain)

    about = {"workdir": workdir, "how": how, "batches": number, "domain": domain} | asked
    asked["parents"] = tuple(sources.dense(pathlib.Path(p), folder) for p in asked["parents"])
    asked["of_domains"] = tuple(source.domains.index(d) for d in asked["of_domains"])
    ask = adapt.Ask(look, len(source.domains), dropless=published, **asked)
    main(source, how, ask, pathlib.Path(out), about)


if __name__ == "__main__":
    WORKDIR = flags.DEFINE_string("workdir", "runs/train", "A run's folder, or a checkpoint's.")
    OUT = flags.DEFINE_string("out", "", "Where the new model goes.")
    HOW = flags.DEFINE_string("how", "prune_reap", "Of `moe.adapt.METHODS`.")
    EXPERTS = flags.DEFINE_integer("experts", 0, "Of the new model; 0: merged into a dense one.", 0)
    K = flags.DEFINE_integer("k", 2, "Experts a token chooses after upcycling.", 1)
    EVERY = flags.DEFINE_integer("moe_every", 1, "Upcycling: the last of so many layers.", 1)
    PARTS = flags.DEFINE_integer("parts", 1, "Upcycling: each copy is cut into so many.", 1)
    SHARE = flags.DEFINE_float("share", 0.0, "Upcycling: of hidden units drawn afresh.", 0.0, 1.0)
    OF_DOMAINS = flags.DEFINE_list("of_domains", [], "domains: names; one named twice is copied.")
    PARENTS = flags.DEFINE_list("parents", [], "Upcycling: folders of more dense models.")
    DEVICES = flags.DEFINE_integer("devices", 1, "place: along `expert`, each of some domains.", 1)
    FILE = flags.DEFINE_string("packed", "", "unpack: the file of experts.")
    SEED = flags.DEFINE_integer("seed", 0, "Of what is drawn.", 0)
    BATCHES = flags.DEFINE_integer("batches", 16, "Of held-out text to look at.", 1)
    DOMAIN = flags.DEFINE_string("domain", "", "Look at text of this domain alone; empty: all.")
    TEXT = flags.DEFINE_string("text", USUAL, "A published model looks at this domain.")
    AXIS = flags.DEFINE_integer("expert_axis", 1, "Devices along `expert`; others share rows.", 1)

    def asked() -> None:
        """On a mesh if there are several devices."""
        on: contextlib.AbstractContextManager = contextlib.nullcontext()
        if jax.device_count() > 1:
            on = sharding.on(sharding.make_mesh(expert=AXIS.value))
        with on:
            adapted(
                WORKDIR.value, OUT.value, HOW.value, BATCHES.value, DOMAIN.value, TEXT.value,
                experts=EXPERTS.value, k=K.value, moe_every=EVERY.value, parts=PARTS.value,
                share=SHARE.value, seed=SEED.value, packed=FILE.value, devices=DEVICES.value,
                of_domains=tuple(OF_DOMAINS.value), parents=tuple(PARENTS.value),
            )  # fmt: skip

    command.run(asked)
