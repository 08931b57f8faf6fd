"""What a user can be told: each has a message of one line and the exit code of the commands."""


class MakemoreError(Exception):
    """The base of them all: a run that failed."""

    exit_code = 1


class UsageError(MakemoreError, ValueError):
    """Settings that cannot work; the message says which and what to do."""

    exit_code = 2


class DataError(UsageError):
    """A word list that cannot be had or used; the message says what to do."""


class ModelFileError(UsageError):
    """A model file that cannot be read; the message says why."""


class WriteError(MakemoreError):
    """Something that cannot be written; the message says what and why."""


class TrainingError(MakemoreError):
    """A training that cannot go on; the message says where it stopped and what to try."""


class DivergedError(TrainingError):
    """A training whose losses left all bounds: ``step``, and what was seen there."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"the training diverged: at step {step} {what}")


class Interrupted(BaseException):
    """A signal ended the run; the exit code is the shell's for it, 130 or 143.

    No Exception, as KeyboardInterrupt is none: what goes on after any error does not go on after this.
    """

    def __init__(self, signum: int, message: str = "interrupted") -> None:
        super().__init__(message)
        self.signum = signum
        self.exit_code = 128 + signum
