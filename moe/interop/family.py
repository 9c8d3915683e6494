"""What a family of published models is, and how its config.json is read: all of it, or not at all.

A field that is missing is an error and never a default: the defaults of another library are not
those of the model. A field that nobody here knows is an error, too: it may change what is computed.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from moe.config import ModelConfig
from moe.errors import UserError
from moe.interop.rules import Rule
from moe.schema import require

MISSING = object()
# Fields of any config.json that change no logit.
IDLE = frozenset({
    *("_attn_implementation", "_name_or_path", "architectures", "attention_dropout"),
    *("bos_token_id", "dtype", "eos_token_id", "initializer_range", "is_decoder"),
    *("is_encoder_decoder", "max_position_embeddings", "model_type", "output_attentions"),
    *("output_hidden_states", "output_router_logits", "pad_token_id", "pretraining_tp"),
    *("return_dict", "router_aux_loss_coef", "torch_dtype", "transformers_version", "use_cache"),
})  # fmt: skip


class Family(NamedTuple):
    """How the checkpoints of one `model_type` map to ours and back."""

    architecture: str  # of transformers
    experts: bool  # does it have any?
    config: Callable[["Fields"], ModelConfig]
    fields: Callable[[Any], dict[str, Any]]  # config.json of a model, without its dtype
    # layout -> the rules of a model whose file has it; the first is written unless another is asked
    # for.
    layouts: Mapping[str, Callable[[Any], list[Rule]]]
    # Patterns of tensors that a file may have and nothing computes with -> what they must be, if
    # that follows from the config.
    beside: Mapping[str, Callable[[Any], np.ndarray] | None] = {}
    float32: str = "(?!)"  # pattern of tensors that stay so in a file of 16-bit numbers


class Fields:
    """config.json, of which somebody reads every field."""

    def __init__(
        self,
        content: dict[str, Any],
        where: str,
        ignore: Collection[str] = (),
        given: Mapping[str, Any] | None = None,
    ) -> None:
        both = sorted(content.keys() & (given or {}).keys())
        require(not both, f"{where} has {', '.join(both)} of its own: do not give it")
        self.content = content | dict(given or {})
        self.where = where
        self.used = set(IDLE) | set(ignore)

    def need(self, name: str, kind: type = int) -> Any:
        """A field that must be there, of its type.

        Raises:
          UserError: with the name.
        """
        value = self.get(name, kind)
        if value is MISSING:
            raise UserError(
                f"{self.where} has no {name}: expected a {kind.__name__}. It is part of what the"
                f" model is, and no default is taken: if you know it, given={{{name!r}: ...}}"
            )
        return value

    def nullable(self, name: str, kind: type = int) -> Any:
        """A field that must be there; 0 if it is null."""
        self.present(name)
        return self.get(name, kind, kind(0))

    def get(self, name: str, kind: type = int, default: Any = MISSING) -> Any:
        """A field, or the default where it is missing or null."""
        self.used.add(name)
        value = self.content.get(name)
        if value is None:
            return default
        if kind is float and type(value) is int:
            value = float(value)
        require(
            type(value) is kind,
            f"{self.where} says {name}={value!r}: expected a {kind.__name__}",
        )
        return value

    def present(self, name: str) -> None:
        """Refuses a file without a field, which may be null: left out it would mean what another
        library's default is.

        Raises:
          UserError: with the name.
        """
        require(
            name in self.content,
            f"{self.where} has no {name}, which is part of what the model is: write it there, null"
            f" if there is none, or say given={{{name!r}: ...}}",
        )

    def need_one_of(self, name: str, *values: Any) -> Any:
        """A field that must be there, with a value that we compute.

        Raises:
          UserError: with the name, the value and those that are known.
        """
        self.present(name)
        self.expect(name, *values)
        return self.content[name]

    def expect(self, name: str, *values: Any) -> None:
        """Refuses a field with a value that we do not compute; the first is meant if it is missing.

        For fields that came after the first files, and those that tensors contradict if they are
        wrong.

        Raises:
          UserError: with the name, the value and those that are known.
        """
        self.used.add(name)
        value = self.content.get(name, values[0])
        require(
            value in values,
            f"{self.where} says {name}={value!r}, and this code computes only"
            f" {' or '.join(map(repr, values))}",
        )

    def rope_theta(self) -> float:
        """The base of rotary frequencies, where old and new files have it.

        Raises:
          UserError: for rotary positions that are scaled or partial, or none.
        """
        self.expect("rope_scaling", None)
        self.used.add("rope_parameters")
        new = self.content.get("rope_parameters")
        if new is None:
            return self.need("rope_theta", float)
        inner = Fields(new, f"{self.where}: rope_parameters")
        inner.expect("rope_type", "default")
        theta = inner.need("rope_theta", float)
        inner.finish()
        require(
            self.get("rope_theta", float, theta) == theta,
            f"{self.where} says rope_theta twice, and not the same",
        )
        return theta

    def alike(self, names: Iterable[str]) -> int:
        """One number under several names, of which a file has at least one.

        Raises:
          UserError: if it has none, or they differ.
        """
        names = list(names)
        found = {name: self.get(name) for name in names}
        values = {value for value in found.values() if value is not MISSING}
        if not values:
            return self.need(names[0])
        require(len(values) == 1, f"{self.where} has {found}, which should be one number")
        return values.pop()

    def finish(self) -> None:
        """Refuses fields that nobody has read.

        Raises:
          UserError: with their names.
        """
        unknown = sorted(set(self.content) - self.used)
        require(
            not unknown,
            f"{self.where} has {', '.join(unknown)}, which this code does not know and which may"
            f" change what is computed. If not, say so: ignore={tuple(unknown)!r}",
        )
