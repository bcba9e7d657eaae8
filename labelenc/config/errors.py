"""The error for everything that is wrong in a configuration."""


class ConfigError(ValueError):
    """A wrong key, type, value or combination; the message names the key and the remedy."""
