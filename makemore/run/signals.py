"""The signals that stop a run."""

import signal
import threading
from types import FrameType
from typing import Self

from makemore.core.errors import Interrupted
from makemore.core.system import stop_signals


class Signals:
    """SIGINT, SIGTERM and the like within a ``with`` block.

    While ``deferred`` is set, the first signal is only stored in ``caught``, so that the training loop can
    save before it ends. A second signal, or one at another time, raises Interrupted at once.

    In threads other than the main one, where Python cannot handle signals, they keep their effect.
    """

    def __init__(self) -> None:
        self.caught: int | None = None
        self.deferred = False

    def __enter__(self) -> Self:
        handled = stop_signals() if threading.current_thread() is threading.main_thread() else []
        self._before = {s: signal.signal(s, self._handle) for s in handled}
        return self

    def __exit__(self, *exception: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.caught is not None or not self.deferred:
            raise Interrupted(signum)
        self.caught = signum
