"""A model and the shape of its images from words such as depth=20 image_size=[96,128]."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

import yaml
from torch import nn

from cnnlab.errors import ModelError
from cnnlab.models.base import as_pair, check_counts
from cnnlab.models.registry import (
    create_model,
    find_model,
    import_model,
    list_models,
    named_parameters,
    rebuild_arguments,
)

IMAGE_SIZE, IN_CHANNELS = 32, 3  # where neither the user nor the model says


def parse_arguments(words: Sequence[str]) -> dict[str, Any]:
    """["depth=20", "model.hidden=[64, 32]"] → {"depth": 20, "hidden": [64, 32]}; of two equal keys the last counts.

    Raises:
        ModelError: a word without a key, or a value that is no YAML.
    """
    arguments = {}
    for word in words:
        key, sign, value = word.partition("=")
        key = key.removeprefix("model.")
        if sign and "." in key:
            raise ModelError(_foreign_key(word))
        if not sign or not key.isidentifier():
            raise ModelError(f"{word!r} is not of the form key=value, such as depth=20.")
        try:
            arguments[key] = yaml.safe_load(value) if value.strip() else ""
        except yaml.YAMLError:
            raise ModelError(
                f"cannot read the value of {word!r}: lists are written [1,2], text without commas."
            ) from None
        if isinstance(arguments[key], str) and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+", arguments[key]):
            arguments[key] = float(arguments[key])  # YAML 1.1 takes 1e-3 for text
    return arguments


def _foreign_key(word: str) -> str:
    """What to say of a key of another section, such as data.image_size=64."""
    key, _, value = word.partition("=")
    facts = {"data.image_size": "image_size", "data.channels": "in_channels"}
    if key in facts:
        return f"{word!r} is a key of `cnnlab train`; here write {facts[key]}={value}."
    return (
        f"{word!r} is no argument of a model, and no set is opened here: give the constructor's own arguments, such as"
        " depth=20, and image_size and in_channels; leave it out."
    )


def model_from_words(name: str, words: Sequence[str]) -> tuple[nn.Module, tuple[int, int, int]]:
    """Build a model, importing its code if it is a user's own, and say which image (C, H, W) it is meant for.

    `image_size` and `in_channels` are known to every model: a constructor that does not ask for them gets along
    without, and they give only the shape of the image.

    Raises:
        ModelError: an unknown model or argument, or a value that makes no network or no image.
    """
    given = parse_arguments(words)
    import_model(name)
    parameters = named_parameters(name)
    image_size = _image_fact("image_size", given, parameters, IMAGE_SIZE)
    channels = _image_fact("in_channels", given, parameters, IN_CHANNELS)
    height, width = _sides(image_size)
    check_counts(in_channels=channels)
    model = create_model(name, trust_code=True, **rebuild_arguments(find_model(name)) | given)  # no weights needed
    return model, (channels, height, width)


def _image_fact(key: str, given: dict[str, Any], parameters: Any, default: int) -> Any:
    """What was given, else the constructor's default, else ours. What the constructor does not ask for is taken out."""
    if key not in parameters:
        value = given.pop(key, None)
        return default if value is None else value
    own = parameters[key].default
    fallback = default if own is inspect.Parameter.empty or own is None else own
    value = given.get(key)
    return fallback if value is None else value


def _sides(image_size: Any) -> tuple[int, int]:
    whole = [image_size] if not isinstance(image_size, list | tuple) else image_size
    if len(whole) > 2 or not whole or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in whole):
        raise ModelError(f"image_size must be one number or [height, width] in pixels, got {image_size!r}.")
    return as_pair(whole[0] if len(whole) == 1 else (whole[0], whole[1]))


def describe_models() -> str:
    """A line for each model that `create_model` knows: its name and the first sentence of its docstring."""
    names = list_models()
    wide = max(map(len, names))
    return "\n".join(f"{name:{wide}}  {_first_sentence(find_model(name))}".rstrip() for name in names)


def argument_rows(name: str) -> list[tuple[str, Any, str]]:
    """The arguments of a model that a user may give: name, default, and what its docstring says of it.

    Raises ModelError for an unknown model, or code of the user's own that fails.
    """
    import_model(name)
    builder = find_model(name)
    built = inspect.get_annotations(builder, eval_str=True).get("return") if inspect.isfunction(builder) else None
    told = {key: text for one in (built, builder) if one for key, text in _described(inspect.getdoc(one) or "").items()}
    facts = ("in_channels", "num_classes", "image_size")  # the data's
    parameters = {key: one for key, one in named_parameters(name).items() if key not in facts}
    return [(key, None if p.default is p.empty else p.default, told.get(key, "")) for key, p in parameters.items()]


def _described(doc: str) -> dict[str, str]:
    """The section Args of a docstring: {"width": "filters of the first stage."}."""
    section = re.search(r"^Args:\n((?:(?: .*)?\n?)*)", doc, flags=re.MULTILINE)
    entries = re.findall(r"^ {4}(\w[\w, ]*): (.*(?:\n {5,}.*)*)", section[1] if section else "", flags=re.MULTILINE)
    return {key: " ".join(text.split()) for keys, text in entries for key in re.split(r", ?", keys)}


def _first_sentence(builder: Callable[..., Any]) -> str:
    text = (inspect.getdoc(builder) or "").split("\n\n")[0].replace("\n", " ")
    return re.split(r"(?<=[\w)])\.(?: |$)", text)[0]
