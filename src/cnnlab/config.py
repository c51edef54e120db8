"""The configuration: typed dataclasses are the schema, `compose` turns overrides into one frozen config.

The only module besides the command line that knows Hydra. The option files lie in `cnnlab/conf`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from cnnlab.errors import ConfigError, nearest
from cnnlab.imports import NAMED
from cnnlab.values import overgrown

GROUPS = ("data", "model", "augment", "optimizer", "schedule", "logger", "recipe")
ALIASES = {"init.from": "init.source"}
VIEWS = ("none", "mirror", "shift", "mirror_shift")
RESUMABLE = ("optimizer.lr", "trainer.grad_clip")  # what a run may change on its way
OPEN_GROUPS = ("model", "optimizer")  # their keys are the arguments of a class, checked where it is built
OWN_CLASSES = {  # what names a class instead of an option
    "data": NAMED,
    "model": NAMED,
    "optimizer": r"[A-Z]\w*",  # any of torch.optim
}
OPTIONS_ABOVE_RECIPE = {"model", "augment", "optimizer", "schedule", "logger"}  # data=NAME is what chose the recipe


def _at_least(low: float, **values: float | None) -> None:
    for key, value in values.items():
        if value is not None and not low <= value < float("inf"):  # not a number is in no range
            raise ConfigError(f"{key.replace('__', '.')} must be at least {low}, got {value}.")


def _fraction(**values: float) -> None:
    for key, value in values.items():
        if not 0 <= value < 1:
            raise ConfigError(f"{key.replace('__', '.')} must be at least 0 and below 1, got {value}.")


def _is_weight(value: Any) -> bool:
    """Whether single precision can weigh a loss with it."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and (value == 0 or 1e-6 <= value <= 1e6)


def _one_of(key: str, value: object, options: Sequence[object]) -> None:
    if value not in options:
        raise ConfigError(f"{key} must be one of {', '.join(str(o).lower() for o in options)}, got {value!r}.")


@dataclass(frozen=True)
class RunConfig:
    dir: str | None = None  # the run folder; None: runs/<name>
    name: str | None = None  # None: <data>-<model>-<time>


@dataclass(frozen=True)
class DataConfig:
    name: str = "digits"
    args: dict[str, Any] = field(default_factory=dict)  # data=module:Class: arguments of its constructor
    root: str = "data"
    val_fraction: float = 0.1  # of the official training split, or of all pictures where there is none
    test_fraction: float = 0.2  # of all pictures; only where there is no official test split
    image_size: Any = None  # pixels: one number or [height, width]; None: the set's own
    limit: int | None = None  # pictures a split at the most, stratified
    download: bool = True
    per_class_train: int | None = None  # training and validation pictures a class, instead of fractions
    per_class_test: int | None = None  # test pictures a class at the most, with per_class_train
    channels: int | None = None  # 3: grey pictures in three equal channels; 1: colour as grey; None: as the set is
    backgrounds: str | None = None  # mnist_m: folder of photographs; None: the two that scikit-learn ships
    pixels: str = "ink"  # mnist_m_seg: ink (background, digit) or digits (background, and each of the ten)
    background: bool = False  # caltech101: keep BACKGROUND_Google as a class
    fit: str = "crop"  # crop: resize to cover, then centre crop; squash: resize both sides freely
    rearrange: str = "none"  # shift: each picture moved by its own few pixels; permute: the pixels of all, alike
    max_corrupt: float = 0.01  # refuse to train above this share of unreadable pictures
    storage: str = "auto"  # auto | memory | mmap | stream
    workers: int | None = None  # processes that decode when streaming; None: one a core

    def __post_init__(self) -> None:
        _fraction(data__val_fraction=self.val_fraction, data__test_fraction=self.test_fraction)
        if self.val_fraction + self.test_fraction >= 1:
            raise ConfigError(
                f"data.val_fraction + data.test_fraction must leave pictures to train on,"
                f" got {self.val_fraction} + {self.test_fraction}."
            )
        _at_least(1, data__limit=self.limit, data__per_class_train=self.per_class_train)
        _at_least(1, data__per_class_test=self.per_class_test)
        _at_least(0, data__max_corrupt=self.max_corrupt, data__workers=self.workers)
        _one_of("data.channels", self.channels, (None, 1, 3))
        _one_of("data.fit", self.fit, ("crop", "squash"))
        _one_of("data.rearrange", self.rearrange, ("none", "shift", "permute"))
        _one_of("data.pixels", self.pixels, ("ink", "digits"))
        _one_of("data.storage", self.storage, ("auto", "memory", "mmap", "stream"))
        object.__setattr__(self, "image_size", _image_size(self.image_size))


def _image_size(value: Any) -> list[int] | None:
    """One number, [height, width] or None → [height, width] or None."""
    if value is None:
        return None
    sides = [value, value] if isinstance(value, int) else value
    whole = isinstance(sides, Sequence) and not isinstance(sides, str) and len(sides) == 2
    if not whole or any(isinstance(side, bool) or not isinstance(side, int) or not 1 <= side <= 2048 for side in sides):
        raise ConfigError(
            f"data.image_size must be one number or [height, width] from 1 to 2048 pixels, got {value!r}."
        )
    return list(sides)


@dataclass(frozen=True)
class AugmentConfig:
    name: str = "none"
    flip: str = "none"  # none | random | alternate (each picture mirrored every second epoch)
    crop: str = "none"  # none | pad | resized | auto (pad below 64 pixels, resized from there on)
    padding: float = 0.125  # crop=pad: border as a share of the side
    padding_mode: str = "reflect"  # reflect | zero
    scale: list[float] = field(default_factory=lambda: [0.35, 1.0])  # crop=resized: share of the picture's area
    ratio: list[float] = field(default_factory=lambda: [0.75, 1.3333])  # crop=resized: width : height
    start_size: float = 1.0  # side of the training pictures in the first epoch, as a share of the evaluated ones' side
    end_size: float = 1.0  # the same after 3/4 of the epochs (Touvron et al. 2019: somewhat below 1 is best)
    rotation: float = 0.0  # degrees to each side
    translate: float = 0.0  # share of the side, each way
    zoom: float = 0.0  # 0.1: between 0.9 and 1.1 times
    shear: float = 0.0  # degrees to each side
    brightness: float = 0.0  # 0.4: factor between 0.6 and 1.4
    contrast: float = 0.0
    saturation: float = 0.0
    erasing: float = 0.0  # probability of a random rectangle (Zhong et al. 2017)
    cutout: float = 0.0  # side of a square hole as a share of the picture (DeVries and Taylor 2017)
    mixup: float = 0.0  # α of Beta(α, α) (Zhang et al. 2018)
    cutmix: float = 0.0  # α of Beta(α, α) (Yun et al. 2019)

    def __post_init__(self) -> None:
        _one_of("augment.flip", self.flip, ("none", "random", "alternate"))
        _one_of("augment.crop", self.crop, ("none", "pad", "resized", "auto"))
        _one_of("augment.padding_mode", self.padding_mode, ("reflect", "zero"))
        _fraction(augment__padding=self.padding, augment__translate=self.translate, augment__zoom=self.zoom)
        _at_least(0, augment__rotation=self.rotation, augment__shear=self.shear, augment__mixup=self.mixup)
        _at_least(0, augment__brightness=self.brightness, augment__contrast=self.contrast, augment__cutmix=self.cutmix)
        _at_least(0, augment__saturation=self.saturation, augment__erasing=self.erasing, augment__cutout=self.cutout)
        for key, pair in (("scale", self.scale), ("ratio", self.ratio)):
            if len(pair) != 2 or not 0 < pair[0] <= pair[1] < float("inf"):
                raise ConfigError(f"augment.{key} must be [low, high] with 0 < low <= high, got {list(pair)}.")
        if self.scale[1] > 1:
            raise ConfigError(f"augment.scale is a share of the picture's area, at most 1, got {list(self.scale)}.")
        for key, share in (("start_size", self.start_size), ("end_size", self.end_size)):
            if not 0.125 <= share <= 1:
                raise ConfigError(f"augment.{key} must be from 0.125 to 1, got {share}.")
        if self.erasing > 1 or self.cutout > 1:
            raise ConfigError("augment.erasing and augment.cutout are at most 1.")
        if self.mixup and self.cutmix:
            raise ConfigError("augment.mixup and augment.cutmix exclude each other; set one of them to 0.")


@dataclass(frozen=True)
class ScheduleConfig:
    name: str = "cosine"  # constant | multistep | cosine | linear | onecycle
    warmup: float = 0.0  # share of all steps in which the rate rises from 0
    final: float = 0.0  # last rate as a share of the highest
    milestones: list[float] = field(default_factory=lambda: [0.5, 0.75])  # multistep: shares of all steps
    gamma: float = 0.1  # multistep: factor at each milestone

    def __post_init__(self) -> None:
        _one_of("schedule.name", self.name, ("constant", "multistep", "cosine", "linear", "onecycle"))
        _fraction(schedule__warmup=self.warmup)
        _at_least(0, schedule__final=self.final, schedule__gamma=self.gamma)
        for milestone in self.milestones:
            if not 0 < milestone < 1:
                raise ConfigError(
                    f"schedule.milestones are shares of all steps, above 0 and below 1, got {milestone}; for epoch e of"
                    " n give e/n, as in [0.5, 0.75]."
                )


@dataclass(frozen=True)
class TrainerConfig:
    epochs: int = 10
    batch_size: int = 128
    device: str = "auto"  # auto | cpu | cuda | cuda:N | mps
    devices: int = 1  # processes that train together, each its share of every batch (docs/distributed.md)
    precision: str = "auto"  # auto | fp32 | bf16 | fp16
    compile: Any = "auto"  # auto | true | false
    channels_last: bool = True
    deterministic: bool = False
    threads: int | None = None  # processor threads; None: one a physical core
    loss: str = "cross_entropy"  # cross_entropy | focal | mse (own: the function that cnnlab.fit was given)
    focal_gamma: float = 2.0
    dice: float = 1.0  # weight of the Dice loss beside the cross-entropy, where pixels have classes
    label_smoothing: float = 0.0
    class_weights: Any = None  # None | balanced | a list, one number a class
    balanced_sampling: bool = False  # draw every class equally often
    accumulate: int = 1  # batches a step
    grad_clip: float | None = None  # largest norm of the whole gradient
    ema: float | None = None  # decay of the running average of the weights, such as 0.999
    early_stopping: int | None = None  # epochs without a better validation accuracy
    checkpoint_minutes: float = 5.0  # longest time between two saved states

    def __post_init__(self) -> None:
        _at_least(1, trainer__epochs=self.epochs, trainer__batch_size=self.batch_size, trainer__threads=self.threads)
        _at_least(1, trainer__accumulate=self.accumulate, trainer__early_stopping=self.early_stopping)
        _at_least(
            0,
            trainer__checkpoint_minutes=self.checkpoint_minutes,
            trainer__focal_gamma=self.focal_gamma,
            trainer__dice=self.dice,
        )
        _fraction(trainer__label_smoothing=self.label_smoothing)
        if not 1 <= self.devices <= self.batch_size:
            raise ConfigError(
                f"trainer.devices must be from 1 to trainer.batch_size={self.batch_size}, which they share, got"
                f" {self.devices}."
            )
        if self.devices > 1 and self.compile is True:
            raise ConfigError("trainer.compile=true is for one process; leave it out, or set trainer.devices=1.")
        if self.devices > 1 and re.fullmatch(r"mps|cuda:\d+", self.device):
            raise ConfigError(
                f"trainer.device={self.device} is one device, and trainer.devices={self.devices} processes train; use"
                " trainer.device=cuda or cpu."
            )
        if self.threads is not None and self.threads > 1024:
            raise ConfigError(f"trainer.threads must be at most 1024, got {self.threads}.")
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device):
            raise ConfigError(f"trainer.device must be auto, cpu, cuda, cuda:N or mps, got {self.device!r}.")
        _one_of("trainer.precision", self.precision, ("auto", "fp32", "bf16", "fp16"))
        _one_of("trainer.compile", self.compile, ("auto", True, False))
        _one_of("trainer.loss", self.loss, ("cross_entropy", "focal", "mse", "own"))
        if self.grad_clip is not None and not 0 < self.grad_clip < float("inf"):
            raise ConfigError(f"trainer.grad_clip must be above 0, got {self.grad_clip}.")
        if self.ema is not None:
            _fraction(trainer__ema=self.ema)
        weights = self.class_weights
        if weights is not None and weights != "balanced":
            numbers = isinstance(weights, Sequence) and not isinstance(weights, str)
            if not numbers or not all(map(_is_weight, weights)) or not any(weights):
                raise ConfigError(
                    "trainer.class_weights must be balanced or a list of numbers, each 0 or from 1e-6 to 1e6, not all"
                    f" 0, got {weights!r}."
                )


@dataclass(frozen=True)
class InitConfig:
    """Where the weights begin. On the command line `source` is called `from`, which is no name in Python."""

    source: str | None = None  # a run folder, a .safetensors file, or torchvision:NAME[:WEIGHTS]; None: drawn from seed
    map: dict[str, str] = field(default_factory=dict)  # prefix of a name in the source → prefix in the model
    strict: bool = True  # false: load what fits, also where more than the head does not
    freeze: Any = "none"  # none | backbone | a number: the first so many stages
    frozen_biases: bool = True  # false: the biases of what is frozen learn all the same
    unfreeze_epoch: int | None = None  # epochs after which the frozen stages learn too; None: never
    whiten: bool = False  # the first convolution begins with filters that whiten the training pictures
    dirac: bool = False  # every other convolution begins as an identity, as far as its channels go

    def __post_init__(self) -> None:
        number = isinstance(self.freeze, int) and not isinstance(self.freeze, bool) and self.freeze >= 0
        if self.freeze not in ("none", "backbone") and not number:
            raise ConfigError(f"init.freeze must be none, backbone or a number of stages, got {self.freeze!r}.")
        _at_least(1, init__unfreeze_epoch=self.unfreeze_epoch)
        if self.unfreeze_epoch is not None and self.freeze in ("none", 0):
            raise ConfigError("init.unfreeze_epoch needs something frozen; set init.freeze=backbone or a number.")
        if self.source is None and self.map:
            raise ConfigError("init.map renames what init.from loads, and there is no init.from.")
        if self.source is not None and (self.whiten or self.dirac):
            raise ConfigError(
                "init.whiten and init.dirac would overwrite what init.from loads; set both to false, or drop init.from."
            )


@dataclass(frozen=True)
class AdaptConfig:
    method: str = "none"  # none | dann (Ganin et al. 2016) | batch_norm (Li et al. 2016: new statistics, no learning)
    data: str = "mnist_m"  # the target domain, a set with the same classes; its labels are not used
    root: str | None = None  # of its pictures; None: data.root
    weight: float = 1.0  # of the domain's loss
    hidden: int = 100  # units of the domain classifier's hidden layers

    def __post_init__(self) -> None:
        _one_of("adapt.method", self.method, ("none", "dann", "batch_norm"))
        _at_least(0, adapt__weight=self.weight)
        _at_least(1, adapt__hidden=self.hidden)


@dataclass(frozen=True)
class TestConfig:
    views: str = "none"  # further views of each test picture whose answers are averaged: mirror, shift, mirror_shift
    share: float = 1.0  # of the pictures that get them: those that the model is least sure of

    def __post_init__(self) -> None:
        _one_of("test.views", self.views, VIEWS)
        if not 0 < self.share <= 1:
            raise ConfigError(f"test.share must be above 0 and at most 1, got {self.share}.")


@dataclass(frozen=True)
class LoggerConfig:
    tensorboard: bool = True
    wandb: bool = False
    wandb_project: str = "cnnlab"
    wandb_mode: str = "online"  # online | offline
    gradients: bool = False  # norm of the gradient of each layer, once an epoch

    def __post_init__(self) -> None:
        _one_of("logger.wandb_mode", self.wandb_mode, ("online", "offline"))


@dataclass(frozen=True)
class Config:
    """Everything one run is made from."""

    seed: int = 0
    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: dict[str, Any] = field(default_factory=dict)  # name and the constructor's own arguments
    init: InitConfig = field(default_factory=InitConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    optimizer: dict[str, Any] = field(default_factory=dict)  # name, lr, weight_decay and the class's own arguments
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    test: TestConfig = field(default_factory=TestConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)

    def __post_init__(self) -> None:
        _at_least(0, seed=self.seed)
        rate = self.optimizer.get("lr")
        if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < 1e6):
            raise ConfigError(f"optimizer.lr must be a number above 0 and below 1,000,000, got {rate!r}.")
        if self.adapt.method == "batch_norm" and self.init.source is None:
            raise ConfigError(
                "adapt.method=batch_norm renews the statistics of a trained network: name its run with init.from=RUN."
            )
        published = self.model.get("name") == "pretrained" and self.model.get("weights", "DEFAULT") is not None
        if published and (self.init.whiten or self.init.dirac):
            raise ConfigError("init.whiten and init.dirac would overwrite the published weights; set both to false.")
        if (self.init.unfreeze_epoch or 0) >= self.trainer.epochs:
            raise ConfigError(
                f"init.unfreeze_epoch={self.init.unfreeze_epoch} is never reached in trainer.epochs="
                f"{self.trainer.epochs}; lower it, or leave it out to keep the stages frozen."
            )

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def options(group: str) -> list[str]:
    """Names of the option files of a group, such as options("model") → ["convnet", "mlp", "resnet"]."""
    folder = resources.files("cnnlab") / "conf" / group
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def resource(group: str, name: str) -> Path:
    """The file of an option, such as resource("study", "width")."""
    return Path(str(resources.files("cnnlab"))) / "conf" / group / f"{name}.yaml"


def known_keys() -> set[str]:
    """Every key with a fixed name, such as `trainer.epochs`; keys below `model` and `optimizer` are open."""
    keys: set[str] = set()
    for entry in dataclasses.fields(Config):
        section = entry.default_factory() if entry.default_factory is not dataclasses.MISSING else None
        if dataclasses.is_dataclass(section):
            keys.update(f"{entry.name}.{inner.name}" for inner in dataclasses.fields(section))
        elif section is None:
            keys.add(entry.name)
    return keys


def _check_override(override: str) -> tuple[str, str]:
    """Split `key=value`; raise ConfigError with the nearest name for an unknown group, option or key."""
    match = re.fullmatch(r"(?:\+\+?)?([A-Za-z_][\w.]*)=(.*)", override, flags=re.DOTALL)
    if not match:
        if override.startswith("~"):
            raise ConfigError(f"{override!r}: no key can be taken away; leave it out, or give it a value.")
        raise ConfigError(f"expected key=value, got {override!r}, as in trainer.epochs=5 or model=resnet.")
    given, value = match.groups()
    key = ALIASES.get(given, given)
    if key in GROUPS:
        own_class = key in OWN_CLASSES and re.fullmatch(OWN_CLASSES[key], value)
        if not own_class and value not in options(key):
            raise ConfigError(f"unknown {key} {value!r}.{nearest(value, options(key))}")
    elif key.split(".")[0] not in OPEN_GROUPS and key not in known_keys():
        candidates = known_keys() | set(ALIASES) | set(GROUPS) | {"model.", "optimizer."}
        raise ConfigError(f"unknown key {key!r}.{nearest(key, candidates)}")
    if key == "augment.name":
        raise ConfigError(f"{override!r} would change a label alone; for the option write augment={value}.")
    if not value:
        raise ConfigError(f"{given}= has no value; give one, or leave {given} out.")
    return key, value


def text_keys() -> set[str]:
    """Keys whose value is text: it is taken as it stands, whatever characters a path may hold."""
    sections: dict[str, Any] = {entry.name: entry.default_factory for entry in dataclasses.fields(Config)}
    return {
        f"{name}.{inner.name}"
        for name, section in sections.items()
        if dataclasses.is_dataclass(section)
        for inner in dataclasses.fields(section)
        if inner.type in ("str", "str | None")
    }


def _chosen(overrides: Sequence[str]) -> dict[str, str]:
    """Every key with its value as text. What is said last of a key holds, and its place is the last one's.

    `optimizer=NAdam`, any class of torch.optim, and `model=module:Class` become the option `any` and a name.
    """
    chosen: dict[str, str] = {}
    for override in overrides:
        key, value = _check_override(override)
        chosen.pop(key, None)
        chosen[key] = value
    for group in set(OWN_CLASSES) & set(chosen):
        if chosen[group] not in options(group):
            name = chosen[group]
            chosen.setdefault(
                f"{group}.name", name if group == "data" else f"'{name}'"
            )  # data.name is text as it stands
            chosen[group] = "any"
    return chosen


def _for_hydra(chosen: Mapping[str, str]) -> list[str]:
    """What Hydra is to compose: the recipe of the data set, the options, and the keys whose values it reads."""
    name = chosen.get("data", "digits")
    recipe = [] if "recipe" in chosen else [f"recipe={name if name in options('recipe') else 'default'}"]
    texts = text_keys()
    return recipe + [
        f"{key}={value}" if key in GROUPS else f"++{key}={value}" for key, value in chosen.items() if key not in texts
    ]


def _put_options_above_recipe(values: dict[str, Any], chosen: Mapping[str, str]) -> None:
    """A group whose option was asked for is that option and the keys that were given; nothing of the recipe's."""
    for group in OPTIONS_ABOVE_RECIPE & set(chosen):
        given = {key.split(".")[1] for key in chosen if key.startswith(f"{group}.")}
        kept = {name: value for name, value in values[group].items() if name in given}
        values[group] = {**read_yaml(resource(group, chosen[group])), **kept}


def _set_texts(values: dict[str, Any], chosen: Mapping[str, str]) -> None:
    for key in text_keys() & set(chosen):
        group, name = key.split(".")
        values.setdefault(group, {})[name] = None if chosen[key] == "null" else chosen[key]


def _tune(values: dict[str, Any], chosen: Mapping[str, str]) -> None:
    """Apply what the recipe found good for one model or optimizer, where that one is in use; overrides still win.

    Of several targets, such as "model.mlp optimizer.SGD", all must be in use, and the values are the last one's.
    """
    for targets, arguments in values.pop("tuned", {}).items():
        pairs = [target.split(".", 1) for target in targets.split()]
        group = pairs[-1][0]
        if all(values[part]["name"] == name for part, name in pairs):
            values[group].update({k: v for k, v in arguments.items() if f"{group}.{k}" not in chosen})


def compose(overrides: Sequence[str] = ()) -> Config:
    """Overrides such as ["data=mnist", "trainer.epochs=3"] → one frozen config.

    The data set chooses its recipe (`recipe=...` overrules), the recipe chooses model, augmentation, optimizer and
    schedule. An option that is given (`augment=none`) puts aside all that the recipe sets in its group, and a key that
    is given beats both, whatever its place in the list; of two values for one key the last holds.

    Raises:
        ConfigError: an unknown key or option, a value of the wrong type or out of range.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    chosen = _chosen(overrides)
    _refuse_references(chosen)
    completed = _for_hydra(chosen)
    folder = str(Path(str(resources.files("cnnlab"))) / "conf")
    try:
        with initialize_config_dir(version_base="1.3", config_dir=folder):
            composed = hydra_compose(config_name="config", overrides=completed)
        OmegaConf.resolve(composed)
    except (HydraException, OmegaConfBaseException) as error:
        _refuse_unreadable(completed)
        reason = str(error.__cause__ or error).strip().splitlines()[0].strip(" :")
        raise ConfigError(f"cannot use {' '.join(overrides)!r}: {reason}.") from None
    values: Any = OmegaConf.to_container(composed)
    _put_options_above_recipe(values, chosen)
    _set_texts(values, chosen)
    _tune(values, chosen)
    return from_dict(values)


def with_changes(config: Config, overrides: Sequence[str]) -> Config:
    """The config of a run that goes on with other values of RESUMABLE. Raises ConfigError for any other key."""
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if not overrides:
        return config
    for override in overrides:
        key, _ = _check_override(override)
        if key not in RESUMABLE:
            raise ConfigError(
                f"a run keeps {key} to its end; what a resume can change is {' and '.join(RESUMABLE)}. For anything"
                " else start a new run."
            )
    try:
        changes = OmegaConf.from_dotlist([override.lstrip("+") for override in overrides])
        return from_dict(OmegaConf.merge(OmegaConf.create(config.to_dict()), changes))
    except (OmegaConfBaseException, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot use {' '.join(overrides)!r}: {str(error).splitlines()[0]}.") from None


def _refuse_unreadable(completed: Sequence[str]) -> None:
    """Raise ConfigError for the first value that Hydra's grammar cannot read."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    for word in completed:
        try:
            unclear = OverridesParser.create().parse_override(word).is_sweep_override()
        except HydraException:
            unclear = True
        if unclear:
            key, _, value = word.lstrip("+").partition("=")
            raise ConfigError(
                f"cannot read the value of {key}, {value!r}: quote a text, \"{key}='…'\", and write a list as"
                f' "{key}=[1,2]".'
            )


def data_keys(overrides: Sequence[str]) -> dict[str, Any]:
    """["data.image_size=64", …] → {"image_size": 64, …}. Raises ConfigError for anything but `data.*` keys."""
    import yaml

    found: dict[str, Any] = {}
    for override in overrides:
        key, value = _check_override(override)
        if not key.startswith("data."):
            raise ConfigError(f"only data.* keys can be given here, got {override!r}.")
        try:
            read = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError):
            raise ConfigError(
                f"{override!r} cannot be read; close its brackets and quotes, as in {key}=[32,48]."
            ) from None
        found[key.removeprefix("data.")] = (None if value == "null" else value) if key in text_keys() else read
    return found


def from_dict(values: Any) -> Config:
    """A nested dictionary → Config, every value checked against its type.

    Raises:
        ConfigError: an unknown key, a value of the wrong type or out of range.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

    _refuse_references(values)
    _refuse_wrong_containers(values)
    schema = OmegaConf.structured(Config)
    _unlock(schema)
    try:
        return OmegaConf.to_object(OmegaConf.merge(schema, OmegaConf.create(values)))  # type: ignore[return-value]
    except ConfigKeyError as error:
        raise ConfigError(f"unknown key {error.full_key!r}.{nearest(str(error.full_key), known_keys())}") from None
    except OmegaConfBaseException as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"{error.full_key}: {reason[:1].lower() + reason[1:]}.") from None


def _refuse_references(values: Any, at: str = "") -> None:
    """Raise ConfigError where a text would be taken for a reference or for a gap, at any depth.

    `${oc.env:NAME}` in a path would put what the environment holds, a secret perhaps, into the run folder and its
    report; `???` would leave the default in force without a word.
    """
    pairs: Any = values.items() if isinstance(values, Mapping) else ()
    pairs = enumerate(values) if isinstance(values, list | tuple) else pairs
    for key, value in pairs:
        place = f"{at}.{key}" if at else str(key)
        if isinstance(value, str) and ("${" in value or value == "???"):
            what = "${" if "${" in value else "???"
            raise ConfigError(f"{place} holds {what}, which stands for a value elsewhere; write the value itself.")
        _refuse_references(value, place)


def _refuse_wrong_containers(values: Any) -> None:
    """Raise ConfigError by its key for a list or a value where keys and values belong, and for an empty address."""
    if not isinstance(values, Mapping):
        return
    for entry in dataclasses.fields(Config):
        section, given = entry.default_factory, values.get(entry.name)
        if given is None or section is dataclasses.MISSING:
            continue
        if not isinstance(given, Mapping):
            raise ConfigError(f"{entry.name} must hold keys and values, got {given!r}.")
        if section in (dict, RunConfig):  # folders of earlier versions hold an empty run.dir
            continue
        renaming = given.get("map") if section is InitConfig else None
        if renaming is not None and not isinstance(renaming, Mapping):
            raise ConfigError(
                f"init.map must name prefixes, as in 'init.map={{backbone: features}}', got {renaming!r}."
            )
        for inner in dataclasses.fields(section):  # type: ignore[arg-type]
            if given.get(inner.name) == "" and f"{entry.name}.{inner.name}" in text_keys():
                raise ConfigError(f"{entry.name}.{inner.name} is empty; give it a value, or leave it out.")


def _unlock(node: Any) -> None:
    """A frozen dataclass becomes a read-only node; merging needs it writable once."""
    from omegaconf import DictConfig, OmegaConf

    OmegaConf.set_readonly(node, False)
    for key in node:
        child = node._get_node(key)
        if isinstance(child, DictConfig) and child._get_flag("readonly") is not None:
            _unlock(child)


def to_yaml(config: Config) -> str:
    """As YAML; `run` comes last, so that a file that lost its tail can be told."""
    from omegaconf import OmegaConf

    values = config.to_dict()
    return OmegaConf.to_yaml(OmegaConf.create(values | {"run": values.pop("run")}))


def load_yaml(path: Path) -> Config:
    """Read back what `to_yaml` wrote. Raises ConfigError for a damaged file, or one that asks for values elsewhere."""
    values = read_yaml(path)
    last = values.get("run")
    if not isinstance(last, Mapping) or "name" not in last:  # what is missing would be taken for its default
        raise ConfigError(f"{path} is cut off: it does not end with run.name; restore it from a copy.")
    try:
        return from_dict(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def read_yaml(path: Path) -> Mapping[str, Any]:
    """A YAML file that holds keys and values. Raises ConfigError for anything else."""
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read ({type(error).__name__}); restore it from a copy.") from None
    if overgrown(values):
        raise ConfigError(
            f"{path} cannot be read: its values are nested too deep, or too many; restore it from a copy."
        )
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path} is not a configuration; restore it from a copy.")
    return values
