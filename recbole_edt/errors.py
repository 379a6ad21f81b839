"""The plugin's own exceptions: one clear sentence each, which the command line prints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class EDTError(Exception):
    """Base of all errors about arguments, configuration and data; the message is one line."""


class ConfigError(EDTError):
    """An unknown model, key or value in the configuration."""


class DataError(EDTError):
    """Atomic files or embeddings that violate the data contract."""


class ProtocolError(EDTError):
    """A split or candidate set that would break the leak-free protocol."""


class CheckpointError(EDTError):
    """A checkpoint that is missing, damaged or belongs to something else."""


class TrainingError(EDTError):
    """A training that cannot go on, such as one whose loss is no longer a number."""


class DependencyError(EDTError, ImportError):
    """A package that is needed is not installed."""


@contextmanager
def as_config_error(what: str) -> Iterator[None]:
    """Turn what RecBole or torch raise about a setting into a :class:`ConfigError` of one line.

    A package that is missing becomes a :class:`DependencyError`.
    """
    try:
        yield
    except EDTError:
        raise
    except ImportError as error:
        raise DependencyError(f"{what}: {error}") from error
    except (
        ArithmeticError, AssertionError, AttributeError, LookupError, NotImplementedError,
        RuntimeError, TypeError, ValueError,
    ) as error:  # fmt: skip
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        if isinstance(error, KeyError):
            reason = f"nothing has the name {reason}"
        raise ConfigError(f"{what}: {reason}") from error
