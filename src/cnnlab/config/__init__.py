"""The configuration of a run: its schema, and how words, options, recipes and files become one.

keys      one key: what it means, its range, how a value is read
schema    the sections and their keys; `Config`; config.yaml
options   the YAML files: options, recipes, experiments
compose   words and files → `Config`, and where each value comes from
describe  the same for a person to read: `cnnlab train --options` and `--explain`
"""

from cnnlab.config.compose import (
    NAMES_OF_CODE,
    RESUMABLE,
    Composed,
    Source,
    compose,
    data_keys,
    key_elsewhere,
    keys_like,
    resolve,
    with_changes,
)
from cnnlab.config.options import EXPERIMENT, GROUPS, optimizer_names, options, own_folder, read_shipped, resource
from cnnlab.config.schema import (
    ALIASES,
    MODEL_CHOICES,
    OPEN_GROUPS,
    VIEWS,
    AdaptConfig,
    AugmentConfig,
    Config,
    DataConfig,
    InitConfig,
    LoggerConfig,
    RunConfig,
    ScheduleConfig,
    TestConfig,
    TrainerConfig,
    from_dict,
    known_keys,
    load_yaml,
    read_yaml,
    text_keys,
    to_yaml,
    with_canonical_names,
)

__all__ = [
    "ALIASES",
    "EXPERIMENT",
    "GROUPS",
    "MODEL_CHOICES",
    "NAMES_OF_CODE",
    "OPEN_GROUPS",
    "RESUMABLE",
    "VIEWS",
    "AdaptConfig",
    "AugmentConfig",
    "Composed",
    "Config",
    "DataConfig",
    "InitConfig",
    "LoggerConfig",
    "RunConfig",
    "ScheduleConfig",
    "Source",
    "TestConfig",
    "TrainerConfig",
    "compose",
    "data_keys",
    "from_dict",
    "key_elsewhere",
    "keys_like",
    "known_keys",
    "load_yaml",
    "optimizer_names",
    "options",
    "own_folder",
    "read_shipped",
    "read_yaml",
    "resolve",
    "resource",
    "text_keys",
    "to_yaml",
    "with_canonical_names",
    "with_changes",
]
