"""Weights of another training put into a model, name by name; and the parts of a model that are not to learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from cnnlab.errors import ModelError, nearest
from cnnlab.finite import infinite_buffers, non_finite
from cnnlab.models.base import Classifier

WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "backbone.")  # put before every name by what held the model
HEAD = "head."


@dataclass
class Transfer:
    """What became of each tensor."""

    loaded: list[str] = field(default_factory=list)  # names in the model
    fresh: dict[str, str] = field(default_factory=dict)  # names in the model that keep their own values, and why
    unused: list[str] = field(default_factory=list)  # names in the source that the model has no place for

    def describe(self) -> str:
        """One line."""
        words = f"{len(self.loaded)} tensors loaded"
        if self.fresh:
            first, why = next(iter(self.fresh.items()))
            words += f", {len(self.fresh)} fresh ({first}: {why}{', …' if len(self.fresh) > 1 else ''})"
        return words + (f", {len(self.unused)} of the source unused" if self.unused else "")


@torch.no_grad()
def transfer(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    names: Mapping[str, str] | None = None,
    strict: bool = True,
    keep_head: bool = True,
) -> Transfer:
    """Copy `tensors` into the model where name and shape agree. The head may differ: it then stays fresh.

    A name is looked for as it is; under `names` (its longest prefix in there is replaced); without what a wrapper put
    before all names (`module.`, `_orig_mod.`, …); and as the model itself renames foreign names (`rename_foreign`).

    Args:
        names: old prefix → new prefix, such as {"conv1": "stem.0", "fc": "head"}.
        strict: False loads what fits and leaves the rest fresh.
        keep_head: False leaves the head fresh whatever its shape, because its classes are others.

    Raises:
        ModelError: something besides the head is missing or of another shape, nothing fits at all, or what fits is not
            finite. The model is unchanged then.
    """
    target = model.state_dict()
    given = _renamed(model, tensors, names or {})
    result = Transfer(unused=[name for name in given if name not in target])
    for name, own in target.items():
        found = given.get(name)
        if name.startswith(HEAD) and not keep_head:
            result.fresh[name] = "other classes"
        elif found is not None and found.shape == own.shape:
            result.loaded.append(name)
        elif not name.endswith("num_batches_tracked"):
            why = "not in the source" if found is None else f"{list(found.shape)} there, {list(own.shape)} here"
            result.fresh[name] = why
    wrong = {name: why for name, why in result.fresh.items() if not name.startswith(HEAD)}
    body = [name for name in target if not name.startswith(HEAD)]
    if body and not set(body) & set(result.loaded):
        some = f" It has {', '.join(list(tensors)[:3])}, …; the model has {', '.join(list(target)[:3])}, …"
        raise ModelError(f"none of the {len(tensors)} tensors of the source fits the model.{some} (init.map renames).")
    if wrong and strict:
        listed = "; ".join(f"{name} ({why})" for name, why in list(wrong.items())[:3])
        unused = f"; unused there: {', '.join(result.unused[:3])}" if result.unused else ""
        raise ModelError(
            f"{len(wrong)} tensors of the model do not fit the source: {listed}{', …' if len(wrong) > 3 else ''}"
            f"{unused}. Build the same architecture, rename with init.map, or load what fits with init.strict=false."
        )
    loaded = {name: given[name].to(target[name].device, target[name].dtype) for name in result.loaded}
    if damaged := non_finite(loaded, infinite_buffers(model)):
        raise ModelError(
            f"{damaged[0]} of the source is not finite; take the weights of a training that did not diverge."
        )
    for name, tensor in loaded.items():
        target[name].copy_(tensor)
    return result


def _renamed(model: nn.Module, tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors under the model's own names, as far as they can be found."""
    own = model.state_dict().keys()
    foreign = model.rename_foreign if isinstance(model, Classifier) else str
    for old in names:
        if not any(key == old or key.startswith(f"{old}.") for key in tensors):
            raise ModelError(f"init.map renames {old!r}, and the source has no such name.{nearest(old, tensors)}")

    def rename(key: str) -> str:
        for old in sorted(names, key=len, reverse=True):
            if key == old or key.startswith(f"{old}."):
                return names[old] + key[len(old) :]
        bare = key
        while bare not in own and foreign(bare) not in own:
            wrapper = next((w for w in WRAPPERS if bare.startswith(w)), None)
            if wrapper is None:
                return key
            bare = bare[len(wrapper) :]
        return bare if bare in own else foreign(bare)

    renamed: dict[str, str] = {}
    for key in tensors:
        name = rename(key)
        if name in own and name in renamed:
            raise ModelError(
                f"the source has two tensors for {name}: {renamed[name]} and {key}; leave one of them out."
            )
        renamed[name] = key
    return {name: tensors[key] for name, key in renamed.items()}


def frozen_stages(model: nn.Module, freeze: str | int) -> list[nn.Module]:
    """The modules that `init.freeze` names: none, backbone (all before the head), or the first so many stages.

    Raises:
        ModelError: the model names no stages, or not as many.
    """
    if freeze == "none" or freeze == 0:
        return []
    stages: tuple[str, ...] = getattr(model, "stages", ())
    if not stages:
        raise ModelError(
            f"{type(model).__name__} names no stages to freeze: give it `stages`, the names of its modules before the"
            " head, or use init.freeze=none."
        )
    count = len(stages) if freeze == "backbone" else int(freeze)
    if count > len(stages):
        raise ModelError(f"init.freeze={count}, and the model has {len(stages)} stages: {', '.join(stages)}.")
    try:
        return [model.get_submodule(name) for name in stages[:count]]
    except AttributeError as error:
        raise ModelError(f"{type(model).__name__}.stages is {stages!r}: {error}.") from None
