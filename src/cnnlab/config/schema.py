"""The schema of the configuration: a dataclass per section, and how a `Config` is read and written."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnnlab.config.keys import check_keys, key, plain, read_value, shown
from cnnlab.errors import ConfigError, nearest
from cnnlab.values import overgrown, spelled

ALIASES = {"init.from": "init.source"}
VIEWS = ("none", "mirror", "shift", "mirror_shift")
EXPONENT = re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$")  # that PyYAML takes for text
OPEN_GROUPS = ("model", "optimizer")  # their keys are the arguments of a class, checked where it is built
MODEL_CHOICES = {  # of the models that come with cnnlab; taken in any case, written like this
    "activation": ("relu", "leaky_relu", "elu", "silu", "gelu", "mish", "tanh", "sigmoid"),
    "shortcut": ("A", "B", "C"),
}


def _is_weight(value: Any) -> bool:
    """Whether single precision can weigh a loss with it."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and (value == 0 or 1e-6 <= value <= 1e6)


@dataclass(frozen=True)
class RunConfig:
    dir: str | None = key(None, "the run folder; null: runs/<name>")
    name: str | None = key(None, "what the run is called; null: <data>-<model>-<time>")


@dataclass(frozen=True)
class DataConfig:
    name: str = key("digits", "the dataset; choose it with data=NAME")
    args: dict[str, Any] = key({}, "data=module:Class: arguments of its constructor", kind="such as {side: 32}")
    root: str = key("data", "folder of the images, or an address such as gs://bucket/photos")
    val_fraction: float = key(
        0.1, "share of the official training split, or of all images where there is none", within="[0, 1)"
    )
    test_fraction: float = key(0.2, "share of all images; only where there is no official test split", within="[0, 1)")
    folds: int | None = key(
        None, "cross-validation with this many folds, then a final network on all their images", within="[2, 100]"
    )
    fold: int | None = key(None, "set by data.folds: the fold that is validated, from 0", within="[0, 100)")
    image_size: Any = key(
        None,
        "side of the images; null: as in the dataset",
        kind="pixels from 1 to 2048, one number or [height,width], or null",
    )
    limit: int | None = key(None, "images per split at most, stratified", within="[1, inf)")
    download: bool = key(True, "download the dataset if it is missing")
    per_class_train: int | None = key(
        None, "training and validation images per class, instead of fractions", within="[1, inf)"
    )
    per_class_test: int | None = key(
        None, "test images per class at most, with data.per_class_train", within="[1, inf)"
    )
    channels: int | None = key(
        None, "3: grey images in three equal channels; 1: colour as grey; null: as in the dataset", choices=(None, 1, 3)
    )
    backgrounds: str | None = key(None, "of mnist_m: folder of photographs; null: the two that come with cnnlab")
    pixels: str = key(
        "ink", "of mnist_m_seg: background and ink, or background and each digit", choices=("ink", "digits")
    )
    background: bool = key(False, "of caltech101: keep BACKGROUND_Google as a class")
    fit: str = key(
        "crop",
        "crop: resize to cover, then centre crop; squash: resize both sides freely",
        choices=("crop", "squash"),
    )
    rearrange: str = key(
        "none",
        "shift: move each image by a few pixels; permute: the same permutation of the pixels of all",
        choices=("none", "shift", "permute"),
    )
    max_corrupt: float = key(0.01, "refuse to train above this fraction of unreadable images", within="[0, inf)")
    storage: str = key("auto", "where decoded images are kept", choices=("auto", "memory", "mmap", "stream"))
    workers: int | None = key(None, "processes that decode when streaming; null: one per core", within="[0, inf)")

    def __post_init__(self) -> None:
        check_keys("data", self)
        if self.val_fraction + self.test_fraction >= 1:
            raise ConfigError(
                f"data.val_fraction + data.test_fraction must leave images to train on,"
                f" got {self.val_fraction} + {self.test_fraction}."
            )
        if self.fold is not None and (self.folds is None or self.fold >= self.folds):
            raise ConfigError(f"data.fold={self.fold} is one of data.folds, which is {self.folds}; leave it out.")
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
    name: str = key("none", "name of the augmentation; choose it with augment=NAME")
    flip: str = key(
        "none",
        "mirror images: random, or alternate (each image every second epoch)",
        choices=("none", "random", "alternate"),
    )
    crop: str = key(
        "none",
        "auto: pad below 64 pixels, resized (a random resized crop) from there on",
        choices=("none", "pad", "resized", "auto"),
    )
    padding: float = key(0.125, "of crop=pad: border as a share of the side", within="[0, 1)")
    padding_mode: str = key("reflect", "fill of the border", choices=("reflect", "zero"))
    scale: list[float] = key(
        [0.35, 1.0], "of crop=resized: share of the image's area", kind="[low,high], above 0 and at most 1"
    )
    ratio: list[float] = key([0.75, 1.3333], "of crop=resized: width : height", kind="[low,high], above 0")
    start_size: float = key(
        1.0,
        "side of the training images in the first epoch, as a fraction of the evaluation size",
        within="[0.125, 1]",
    )
    # Touvron et al. 2019: somewhat below 1 is best
    end_size: float = key(1.0, "the same after 3/4 of the epochs", within="[0.125, 1]")
    rotation: float = key(0.0, "degrees to each side", within="[0, inf)")
    translate: float = key(0.0, "shift each way, as a share of the side", within="[0, 1)")
    zoom: float = key(0.0, "0.1: between 0.9 and 1.1 times", within="[0, 1)")
    shear: float = key(0.0, "degrees to each side", within="[0, inf)")
    brightness: float = key(0.0, "0.4: factor between 0.6 and 1.4", within="[0, inf)")
    contrast: float = key(0.0, "0.4: factor between 0.6 and 1.4", within="[0, inf)")
    saturation: float = key(0.0, "0.4: factor between 0.6 and 1.4", within="[0, inf)")
    erasing: float = key(0.0, "probability of a random rectangle (Zhong et al. 2017)", within="[0, 1]")
    cutout: float = key(0.0, "side of a square hole as a share of the image (DeVries and Taylor 2017)", within="[0, 1]")
    mixup: float = key(0.0, "α of Beta(α, α) (Zhang et al. 2018)", within="[0, inf)")
    cutmix: float = key(0.0, "α of Beta(α, α) (Yun et al. 2019)", within="[0, inf)")

    def __post_init__(self) -> None:
        check_keys("augment", self)
        for name, pair in (("scale", self.scale), ("ratio", self.ratio)):
            if len(pair) != 2 or not 0 < pair[0] <= pair[1] < float("inf"):
                raise ConfigError(f"augment.{name} must be [low, high] with 0 < low <= high, got {list(pair)}.")
        if self.scale[1] > 1:
            raise ConfigError(f"augment.scale is a share of the image's area, at most 1, got {list(self.scale)}.")
        if self.mixup and self.cutmix:
            raise ConfigError("augment.mixup and augment.cutmix exclude each other; set one of them to 0.")


@dataclass(frozen=True)
class ScheduleConfig:
    name: str = key(
        "cosine",
        "the learning rate over the steps; choose it with schedule=NAME",
        choices=("constant", "multistep", "cosine", "linear", "onecycle"),
    )
    warmup: float = key(0.0, "fraction of all steps in which the rate rises from 0", within="[0, 1)")
    final: float = key(0.0, "last rate as a fraction of the highest", within="[0, inf)")
    milestones: list[float] = key(
        [0.5, 0.75],
        "of multistep: where the rate drops",
        kind="epochs, [5,8], or shares of all steps, [0.5,0.75]",
    )
    gamma: float = key(0.1, "of multistep: factor at each milestone", within="[0, inf)")

    def __post_init__(self) -> None:
        check_keys("schedule", self)
        shares = [0 < one < 1 for one in self.milestones]
        epochs = [one >= 1 and float(one).is_integer() for one in self.milestones]
        if not all(shares) and not all(epochs):
            mixed = all(share or epoch for share, epoch in zip(shares, epochs, strict=True))
            raise ConfigError(
                "schedule.milestones must be epochs, as in [5,8], or shares of all steps, as in [0.5,0.75],"
                f" {'not both' if mixed else 'nothing else'}, got {list(self.milestones)}."
            )


@dataclass(frozen=True)
class TrainerConfig:
    epochs: int = key(10, "passes over the training images", within="[1, inf)")
    batch_size: int = key(128, "images per batch", within="[1, inf)")
    device: str = key("auto", "where to train", kind="auto | cpu | cuda | cuda:N | mps")
    devices: int = key(
        1,
        "processes that train together, each its share of every batch (docs/distributed.md)",
        kind="a whole number, from 1 to trainer.batch_size",
    )
    precision: str = key("auto", "floating-point precision of training", choices=("auto", "fp32", "bf16", "fp16"))
    compile: Any = key(
        "auto", "torch.compile the network; auto: and CUDA graphs of its steps", choices=("auto", True, False)
    )
    channels_last: bool = key(True, "channels-last layout of the images in memory")
    deterministic: bool = key(False, "deterministic algorithms only, on an accelerator too")
    threads: int | None = key(None, "processor threads; null: one per physical core", within="[1, 1024]")
    loss: str = key(
        "cross_entropy",
        "the loss; your own function as module:function (own: the one given to cnnlab.fit)",
        kind="cross_entropy | focal | mse | module:function",
    )
    focal_gamma: float = key(2.0, "of the focal loss: its exponent", within="[0, inf)")
    dice: float = key(
        1.0, "weight of the Dice loss beside the cross-entropy, where pixels have classes", within="[0, inf)"
    )
    label_smoothing: float = key(0.0, "fraction of the label spread over all classes", within="[0, 1)")
    class_weights: Any = key(
        None,
        "weight of each class in the loss; balanced: the rarer, the heavier",
        kind="balanced, a list with a number per class, or null",
    )
    balanced_sampling: bool = key(False, "draw every class equally often")
    accumulate: int = key(1, "gradient accumulation: batches per step", within="[1, inf)")
    grad_clip: float | None = key(None, "gradient clipping: largest norm of the whole gradient", within="(0, inf)")
    ema: float | None = key(None, "decay of a moving average of the weights (EMA), such as 0.999", within="[0, 1)")
    early_stopping: int | None = key(
        None, "epochs without a better validation accuracy, after which training stops", within="[1, inf)"
    )
    checkpoint_minutes: float = key(5.0, "longest time between two checkpoints", within="[0, inf)")

    def __post_init__(self) -> None:
        if isinstance(self.grad_clip, float) and self.grad_clip == float("inf"):
            raise ConfigError("trainer.grad_clip=inf clips nothing; leave it out.")
        check_keys("trainer", self)
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
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device):
            raise ConfigError(f"trainer.device must be auto, cpu, cuda, cuda:N or mps, got {self.device!r}.")
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

    source: str | None = key(
        None,
        "initial weights: a run folder, a .safetensors file, or torchvision:NAME[:WEIGHTS]; null: random, by the seed",
    )
    map: dict[str, str] = key(
        {}, "prefix of a name in the source → prefix in the model", kind="such as {backbone: features}"
    )
    strict: bool = key(True, "false: load what fits, also where more than the head does not")
    freeze: Any = key("none", "what to freeze", kind="none | backbone | a number: the first so many stages")
    frozen_biases: bool = key(True, "false: the biases of frozen layers are trained all the same")
    unfreeze_epoch: int | None = key(
        None, "epochs after which the frozen stages are trained too; null: never", within="[1, inf)"
    )
    whiten: bool = key(False, "initialize the first convolution with filters that whiten the training images")
    dirac: bool = key(False, "initialize every other convolution as an identity, as far as its channels go")

    def __post_init__(self) -> None:
        check_keys("init", self)
        number = isinstance(self.freeze, int) and not isinstance(self.freeze, bool) and self.freeze >= 0
        if self.freeze not in ("none", "backbone") and not number:
            raise ConfigError(f"init.freeze must be none, backbone or a number of stages, got {self.freeze!r}.")
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
    method: str = key(
        "none",
        "dann (Ganin et al. 2016), or batch_norm (Li et al. 2016: new statistics, no training)",
        choices=("none", "dann", "batch_norm"),
    )
    data: str = key("mnist_m", "the target domain, a dataset with the same classes; its labels are not used")
    root: str | None = key(None, "folder of its images; null: data.root")
    weight: float = key(1.0, "weight of the domain loss", within="[0, inf)")
    hidden: int = key(100, "units of the domain classifier's hidden layers", within="[1, inf)")

    def __post_init__(self) -> None:
        check_keys("adapt", self)


@dataclass(frozen=True)
class TestConfig:
    views: str = key("none", "test-time augmentation: views whose predictions are averaged", choices=VIEWS)
    share: float = key(1.0, "fraction of the images that get them, the least confident first", within="(0, 1]")
    metrics: list[str] = key([], "further metrics of your own", kind="a list of module:function")

    def __post_init__(self) -> None:
        check_keys("test", self)


@dataclass(frozen=True)
class LoggerConfig:
    tensorboard: bool = key(True, "write RUN/tensorboard")
    wandb: bool = key(False, "log to Weights & Biases")
    wandb_project: str = key("cnnlab", "project there")
    wandb_mode: str = key("online", "offline: keep it here until `wandb sync`", choices=("online", "offline"))
    gradients: bool = key(False, "norm of the gradient of each layer, once per epoch")

    def __post_init__(self) -> None:
        check_keys("logger", self)


@dataclass(frozen=True)
class Config:
    """Everything one run is made from."""

    seed: int = key(0, "of the split, the weights, the order and the augmentation", within="[0, inf)")
    task: str | None = key(
        None,
        "the task; null: as the targets of the dataset require",
        kind="classification | multilabel | segmentation | module:Class, or null",
    )
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
        if not self.seed >= 0:
            raise ConfigError(f"seed must be at least 0, got {self.seed}.")
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
        last = max(self.schedule.milestones, default=0)
        if self.schedule.name == "multistep" and last >= max(1, self.trainer.epochs):
            raise ConfigError(
                f"schedule.milestones={[round(one) for one in self.schedule.milestones]} is never reached in"
                f" trainer.epochs={self.trainer.epochs}; lower {last:g}, or give shares of all steps, as in [0.5,0.75]."
            )

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@functools.cache
def known_keys() -> dict[str, dataclasses.Field[Any]]:
    """Every key with a fixed name, such as `trainer.epochs`; keys below `model` and `optimizer` are open."""
    keys: dict[str, dataclasses.Field[Any]] = {}
    for entry in dataclasses.fields(Config):
        if section := _schema(entry):
            keys |= {f"{entry.name}.{inner.name}": inner for inner in dataclasses.fields(section)}
        elif entry.name not in OPEN_GROUPS:
            keys[entry.name] = entry
    return keys


def _schema(entry: dataclasses.Field[Any]) -> Any:
    """The dataclass of a section; None for a single key and for an open group."""
    return entry.default_factory if dataclasses.is_dataclass(entry.default_factory) else None


@functools.cache
def text_keys() -> set[str]:
    """Keys whose value is text: it is taken as it stands, whatever characters a path may hold."""
    return {name for name, one in known_keys().items() if one.type in ("str", "str | None")}


def from_dict(values: Any) -> Config:
    """A nested dictionary → Config, every value checked against its type.

    Raises:
        ConfigError: an unknown key, a value of the wrong type or out of range.
    """
    refuse_references(values)
    entries = {entry.name: entry for entry in dataclasses.fields(Config)}
    given = {}
    for name, value in values.items():
        if name not in entries:
            raise ConfigError(f"unknown key {name!r}.{nearest(str(name), known_keys())}")
        given[name] = _read_section(entries[name], value)
    return Config(**given)


def _read_section(entry: dataclasses.Field[Any], values: Any) -> Any:
    if not (schema := _schema(entry)) and entry.name not in OPEN_GROUPS:
        return read_value(entry.name, values, entry)
    if not isinstance(values, Mapping):
        raise ConfigError(f"{entry.name} must hold keys and values, got {shown(values)}.")
    if schema is None:
        return {key: read_argument(f"{entry.name}.{key}", value) for key, value in values.items()}
    fields, given = {one.name: one for one in dataclasses.fields(schema)}, {}
    for inner, value in values.items():
        name = f"{entry.name}.{inner}"
        if inner not in fields:
            raise ConfigError(f"unknown key {name!r}.{nearest(name, known_keys())}")
        # Folders of earlier versions hold an empty run.dir.
        if value == "" and name in text_keys() and schema is not RunConfig:
            raise ConfigError(f"{name} is empty; give it a value, or leave it out.")
        if name == "init.map" and not isinstance(value, Mapping):
            raise ConfigError(f"init.map must name prefixes, as in 'init.map={{backbone: features}}', got {value!r}.")
        given[inner] = read_value(name, value, fields[inner])
    return schema(**given)


def read_argument(name: str, value: Any) -> Any:
    """The value of a key below `model` or `optimizer`. Raises ConfigError for what YAML cannot hold as it is."""
    try:
        return plain(value)
    except ValueError:
        raise ConfigError(f"{name} must be a number, text, or a list of them, got {value!r}; quote a text.") from None


def with_canonical_names(model: Mapping[str, Any]) -> dict[str, Any]:
    """The section `model` with activation=ReLU as relu and shortcut=a as A, where the model comes with cnnlab."""
    own = ":" in str(model.get("name"))
    choices = {} if own else MODEL_CHOICES
    return {key: spelled(value, choices[key]) if key in choices else value for key, value in model.items()}


def refuse_references(values: Any, at: str = "") -> None:
    """Raise ConfigError where a text would be taken for a reference or for a gap, at any depth.

    `${oc.env:NAME}` in a path would put what the environment holds, a secret perhaps, into the run folder and its
    report; `???` would leave the default in force without a word.
    """
    pairs: Any = values.items() if isinstance(values, Mapping) else ()
    pairs = enumerate(values) if isinstance(values, list | tuple) else pairs
    for name, value in pairs:
        place = f"{at}.{name}" if at else str(name)
        if isinstance(value, str) and ("${" in value or value == "???"):
            what = "${" if "${" in value else "???"
            raise ConfigError(f"{place} holds {what}, which stands for a value elsewhere; write the value itself.")
        refuse_references(value, place)


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


def read_yaml(path: Path, fix: str = "restore it from a copy", by_hand: bool = False) -> Mapping[str, Any]:
    """A YAML file that holds keys and values. Raises ConfigError, which ends with the fix, for anything else.

    Args:
        by_hand: a person wrote it, for whom 3e-3 is a number, as in YAML 1.2 and in Hydra.
    """
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        pass

    if by_hand:
        Loader.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+0123456789"))
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path} cannot be read ({type(error).__name__}{line}); {fix}.") from None
    if overgrown(values):
        raise ConfigError(f"{path} cannot be read: its values are nested too deep, or too many; {fix}.")
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path} is not a configuration; {fix}.")
    return values
