"""Where the parameters of step 0 come from. `RULES` is the whole list of rules.

A run that is started again resumes its own last checkpoint. Otherwise it starts at step 0: from
parameters of another run, by rules that say for every parameter how it comes about, or from
scratch. Either way the schedule is its own, and so is the optimizer unless the config says else.
"""

from dataclasses import dataclass

from moe import paths, schema
from moe.initialisation import fresh, mean, take, tile

RULES = {
    "take": take.RULE,
    "tile": tile.RULE,
    "mean": mean.RULE,
    "fresh": fresh.RULE,
}


@dataclass(frozen=True, kw_only=True)
class InitConfig:
    """A start from the last checkpoint of another run; without `workdir` from scratch.

    Attributes:
      workdir: of the other run, or of whatever holds a checkpoint of ours.
      rules: (pattern, rule) or (pattern, rule, saved path). The first pattern that matches a
        parameter's whole path decides. The saved path, which may use the pattern's groups as \\1,
        is the same path unless it is given. Parameters lie under paths as
        block/layer_1/moe/experts/w_in, and the router's state under router_state/.
      leave_out: patterns of saved parameters that this model has no use for. What is saved and
        neither read nor left out is an error.
      other_tokenizer: the saved parameters were trained on ids of another tokenizer, and that is
        known.
      optimizer: adam's moments come from the other run, too, each by the rule of its parameter;
        what is drawn has none. Otherwise the optimizer begins anew.
    """

    workdir: str = ""
    rules: tuple[tuple[str, ...], ...] = ((".*", "take"),)
    leave_out: tuple[str, ...] = ()
    other_tokenizer: bool = False
    optimizer: bool = False

    def __post_init__(self):
        for rule in self.rules:
            self._check_rule(rule)
        for pattern in self.leave_out:
            paths.check(pattern, "init_from.leave_out")

    def refuse_idle(self) -> None:
        """Refuses rules for a start from nowhere.

        A config file may have them without a workdir, which a flag then names; a run may not.

        Raises:
          UserError: with the field.
        """
        for name in ("rules", "leave_out", "other_tokenizer", "optimizer"):
            value = getattr(self, name)
            schema.require(
                bool(self.workdir) or value == getattr(InitConfig, name),
                f"init_from.{name}={value!r} does nothing without init_from.workdir: name the run"
                " to start from",
            )

    def _check_rule(self, rule):
        schema.require(
            len(rule) in (2, 3),
            f"init_from.rules has {rule!r}: expected (pattern, rule) or (pattern, rule, saved"
            " path)",
        )
        paths.check(rule[0], "init_from.rules")
        schema.one_of(f"the rule of {rule!r} in init_from.rules", rule[1], RULES)
        schema.require(
            len(rule) == 2 or RULES[rule[1]].reads,
            f"init_from.rules has {rule!r}: {rule[1]!r} reads no saved parameter, leave out the"
            " last part",
        )
