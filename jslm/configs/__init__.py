"""The verb `jslm configs`: the presets and recipes that come with jslm."""
