"""Errors that are told to a user: each has a message of one line and an exit code."""


class MakemoreError(Exception):
    """The base class: a run failed."""

    exit_code = 1


class UsageError(MakemoreError, ValueError):
    """Settings that cannot work. The message says which ones and what to do."""

    exit_code = 2


class DataError(UsageError):
    """A word list that cannot be read or used. The message says what to do."""


class ModelFileError(UsageError):
    """A model file that cannot be read. The message says why."""


class WriteError(MakemoreError):
    """A file that cannot be written. The message says which one and why."""


class TrainingError(MakemoreError):
    """A training run that cannot continue. The message says where it stopped and what to try."""


class DivergedError(TrainingError):
    """A training run whose loss is not finite or is absurdly high after ``step`` steps."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"the training diverged: at step {step} {what}")


class Interrupted(BaseException):
    """A signal ended the run. The exit code is 128 + the signal's number, as in a shell.

    Like KeyboardInterrupt it is not an Exception, so that no handler of ordinary errors catches it.
    """

    def __init__(self, signum: int, message: str = "interrupted") -> None:
        super().__init__(message)
        self.signum = signum
        self.exit_code = 128 + signum
