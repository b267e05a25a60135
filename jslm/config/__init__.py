"""Run configuration: frozen pydantic models, TOML files, `section.key=value` overrides."""

from jslm.config.card_schema import CardConfig
from jslm.config.data_schema import (
    AugmentConfig,
    CleanerName,
    DataConfig,
    DedupConfig,
    FilterConfig,
    MixtureCorpus,
    PrepareConfig,
    TokenizerConfig,
)
from jslm.config.load import (
    apply_overrides,
    config_from_dict,
    config_to_toml,
    load_config,
    merge_values,
    parse_overrides,
    said_to_toml,
    values_to_toml,
)
from jslm.config.meaning import Difference, model_differences, start_differences, state_difference
from jslm.config.model_schema import ConditionConfig, ModelConfig, RopeScalingConfig
from jslm.config.presets import describe, preset_files
from jslm.config.rewrite_schema import CALIBRATION_WEIGHTS, RewriteConfig
from jslm.config.schema import (
    CheckpointConfig,
    Config,
    DpoConfig,
    LoraConfig,
    MeshConfig,
    OptimizerConfig,
    SampleConfig,
    TrainConfig,
)

__all__ = [
    "CALIBRATION_WEIGHTS",
    "AugmentConfig",
    "CardConfig",
    "CheckpointConfig",
    "CleanerName",
    "ConditionConfig",
    "Config",
    "DataConfig",
    "DedupConfig",
    "Difference",
    "DpoConfig",
    "FilterConfig",
    "LoraConfig",
    "MeshConfig",
    "MixtureCorpus",
    "ModelConfig",
    "OptimizerConfig",
    "PrepareConfig",
    "RewriteConfig",
    "RopeScalingConfig",
    "SampleConfig",
    "TokenizerConfig",
    "TrainConfig",
    "apply_overrides",
    "config_from_dict",
    "config_to_toml",
    "describe",
    "load_config",
    "merge_values",
    "model_differences",
    "parse_overrides",
    "preset_files",
    "said_to_toml",
    "start_differences",
    "state_difference",
    "values_to_toml",
]
