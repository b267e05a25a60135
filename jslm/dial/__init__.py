"""From a text, a device and minutes to a config (`jslm train FILE`); docs/dial.md has the figures."""
