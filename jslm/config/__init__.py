"""Run configuration: frozen pydantic models, TOML files, `section.key=value` overrides."""

from jslm.config.load import (
    apply_overrides,
    config_from_dict,
    config_to_toml,
    load_config,
    parse_overrides,
)
from jslm.config.schema import (
    CheckpointConfig,
    Config,
    DataConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    PrepareConfig,
    RopeScalingConfig,
    SampleConfig,
    TokenizerConfig,
    TrainConfig,
)

__all__ = [
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "MeshConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PrepareConfig",
    "RopeScalingConfig",
    "SampleConfig",
    "TokenizerConfig",
    "TrainConfig",
    "apply_overrides",
    "config_from_dict",
    "config_to_toml",
    "load_config",
    "parse_overrides",
]
