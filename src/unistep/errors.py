"""Everything that a user can cause ends in one of these, with one sentence that says what to do.

UnistepError
|- ImageError      a file or an array that cannot be read, made or written
|- ModelError      weights that are missing, damaged or of another kind
|- ConfigError     a setting that does not exist or cannot be
|- DataError       training data that cannot be used
|- TrainingError   a run that must stop: a non-finite loss, a folder of another run
`- MemoryLimit     not enough memory even for the smallest tile
"""


class UnistepError(Exception):
    """Base of all errors that Unistep raises on purpose."""


class ImageError(UnistepError):
    """A picture that cannot be read, made or written."""


class ModelError(UnistepError):
    """Weights that are missing, damaged or of another kind."""


class ConfigError(UnistepError):
    """A setting that does not exist or whose value cannot be."""


class DataError(UnistepError):
    """Training data that cannot be used."""


class TrainingError(UnistepError):
    """A training run that must stop."""


class MemoryLimit(UnistepError):
    """Not enough memory even for the smallest tile."""
