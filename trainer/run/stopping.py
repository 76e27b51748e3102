"""SIGINT and SIGTERM while a network is trained: the first lets the step end, the second stops at once."""

import os
import signal
import threading
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A run was stopped by a signal and has been saved; ``status`` is the exit status that goes with the signal."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.status = 128 + number


class StopSignal:
    """Takes the first signal that comes while it is entered; the next one does what it would do anyway.

    Attributes:
        number: of the signal that has come, or 0.
    """

    def __init__(self) -> None:
        self.number = 0

    def __enter__(self) -> "StopSignal":
        self._before = {number: signal.signal(number, self._take) or signal.SIG_DFL for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self.__exit__()


def outlive_signals(worker: int) -> None:
    """Let a worker process pass over the signals that stop the trainer, which needs its crops to end the step.

    Terminals and schedulers send signals to every process of a run. The trainer's own SIGTERM still ends the worker.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # on Linux, which is where schedulers are
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_trainer, daemon=True).start()


def _obey_trainer() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
