"""Which saved parameter makes which, and what is refused."""

import jax
import jax.numpy as jnp
import pytest

from moe.initialisation import InitConfig, mapping


def shapes(**given):
    return {
        path.replace("__", "/"): jax.ShapeDtypeStruct(shape, jnp.float32)
        for path, shape in given.items()
    }


DRAWN = shapes(embed=(7, 2), moe__experts__w_in=(4, 2, 3), moe__router=(2, 4))
SAVED = shapes(embed=(7, 2), ffn__w_in=(2, 3), head=(7, 2))
RULES = (
    (r"(.*)moe/experts/(.*)", "tile", r"\1ffn/\2"),
    (r".*router", "fresh"),
    (r".*", "take"),
)


def config(rules=RULES, leave_out=("head",)) -> InitConfig:
    return InitConfig(workdir="other", rules=rules, leave_out=leave_out)


def test_the_first_rule_that_matches_decides():
    assert mapping.origins(config(), DRAWN, SAVED) == {
        "embed": ("take", "embed"),
        "moe/experts/w_in": ("tile", "ffn/w_in"),
        "moe/router": ("fresh", None),
    }


@pytest.mark.parametrize(
    ("rules", "leave_out", "message"),
    [
        (RULES[:2], ("head",), r"no rule .* matches the parameter embed: add \('embed', 'fresh'\)"),
        ((*RULES[:2], (".*", "take"), ("nothing", "take")), ("head",), "'nothing', which matches"),
        (RULES[1:], ("head",), "no such parameter; the nearest is ffn/w_in"),
        (RULES, (), "reads nothing of the saved head: name them in init_from.leave_out"),
        (RULES, ("head", "tail"), "'tail', which matches no parameter"),
        (
            ((r"(.*)moe/experts/(.*)", "take", r"\1ffn/\2"), *RULES[1:]),
            ("head",),
            r"take makes \(2, 3\) of the saved ffn/w_in \(2, 3\), and moe/experts/w_in is \(4, 2,",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(rules, leave_out, message):
    with pytest.raises(ValueError, match=message):
        mapping.origins(config(rules, leave_out), DRAWN, SAVED)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rules": (("(", "take"),)}, "no regular expression"),
        ({"rules": ((".*", "borrow"),)}, "'borrow' is not one of 'take', 'tile', 'mean', 'fresh'"),
        ({"rules": ((".*",),)}, r"expected \(pattern, rule\) or \(pattern, rule, saved path\)"),
        ({"rules": ((".*", "fresh", "x"),)}, "'fresh' reads no saved parameter"),
        ({"leave_out": ("[",)}, "no regular expression"),
    ],
)
def test_rules_that_say_nothing_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        InitConfig(**({"workdir": "other"} | fields))


def test_a_group_that_the_pattern_does_not_have():
    rules = (("embed", "take", r"\2"), *RULES)
    with pytest.raises(ValueError, match=r"whose groups 'embed' does not have"):
        mapping.origins(config(rules), DRAWN, SAVED)


def test_rules_without_a_run_are_a_recipe_but_no_start():
    """A config file may hold them, and a flag name the run."""
    recipe = InitConfig(rules=RULES)
    with pytest.raises(ValueError, match="init_from.rules=.* does nothing without init_from.work"):
        recipe.refuse_idle()
    InitConfig(workdir="other", rules=RULES).refuse_idle()
    InitConfig().refuse_idle()
