"""The plugin's own exceptions: one clear sentence each; the command line turns them into exit code 2."""


class EDTError(Exception):
    """Base of every error that a user can mend; its message is one line."""


class ConfigError(EDTError):
    """An unknown model, key or value in the configuration."""


class DataError(EDTError):
    """Atomic files or embeddings that do not keep the data contract."""


class ProtocolError(EDTError):
    """A split or candidate set that would break the leak-free protocol."""


class CheckpointError(EDTError):
    """A checkpoint that is missing, damaged or belongs to something else."""
