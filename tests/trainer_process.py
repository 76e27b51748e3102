"""Runs of the trainer: in the tests' own process, and in others that begin with everything imported."""

import atexit
import gc
import io
import multiprocessing
import os
import signal
import socket
import sys
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

from accelerate import PartialState
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedType
from flowmapsr.trainer.__main__ import main
from flowmapsr.trainer.run.loop import StageRun

# A server imports torch once, and what it forks has run nothing yet.
PROCESSES = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
if os.name == "posix":
    PROCESSES.set_forkserver_preload(
        ["flowmapsr.trainer.run.loop", "flowmapsr.trainer.learning.adapter", "lpips", "spandrel"]
    )
gc.freeze()  # every stage ends with collections, which need not go through all that is imported
atexit.register(gc.unfreeze)
TRAIN_STEP = StageRun.train_step
# what ``accelerate launch`` puts into the environment
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
}
ZERO_2 = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}


class Done(NamedTuple):
    """A run that has ended: its exit status, and what it said on stdout and on stderr."""

    status: int
    out: str
    err: str


def arguments(recipe, *overrides):
    return [str(recipe), *(part for override in overrides for part in ("--set", override))]


def train(recipe, *overrides, options=(), command=main):
    """A run of the trainer's command, or another of its kind, in this process: accelerate knows nothing of others."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = command([*arguments(recipe, *overrides), *options])
    return Done(status, out.getvalue(), err.getvalue())


def failure(recipe, *overrides, **settings):
    """The message that a run in this process ends with."""
    done = train(recipe, *overrides, **settings)
    assert done.status == 2, done
    *_, last = done.err.strip().splitlines()
    assert last.startswith("error: ")
    return last


@contextmanager
def small_files(largest):
    """A time in which this process can write no file of more than ``largest`` bytes, as if the disk were full."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def stop_at(step, number):
    """A method for StageRun's ``train_step`` that sends this process a signal in the step after ``step``."""

    def train_step(stage, crops):
        if stage.step == step:
            signal.raise_signal(number)
        return TRAIN_STEP(stage, crops)

    return train_step


def start(recipe, *overrides, log=os.devnull, largest_file=None, sigterm=None, environment=None, command=main):
    """A process that trains, or runs another command, and says into ``log`` what it has to say.

    It can write no file of more than ``largest_file`` bytes, and gets SIGTERM in the step after ``sigterm``.
    """
    settings = (log, largest_file, sigterm, environment or {})
    process = PROCESSES.Process(target=_run, args=(command, arguments(recipe, *overrides), *settings))
    process.start()
    return process


def train_on_two(recipe, *overrides, log, sigterm=None, environment=None, command=main):
    """A run on two processes, as a launcher starts them; returns the exit statuses and what the first one said.

    Only the second gets SIGTERM, in the step after ``sigterm``.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        place = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
    place |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true", **(environment or {})}
    logs = (log, log.with_suffix(".second"))
    ranks = [{**place, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    processes = [
        start(recipe, *overrides, log=log, sigterm=signalled, environment=rank, command=command)
        for log, signalled, rank in zip(logs, (None, sigterm), ranks, strict=True)
    ]
    for process in processes:
        process.join()
    return [process.exitcode for process in processes], Path(log).read_text()


def _run(command, options, log, largest_file, sigterm, environment):
    os.environ |= environment
    if sigterm is not None:
        StageRun.train_step = stop_at(sigterm, signal.SIGTERM)
    if environment.keys() >= FSDP.keys():  # accelerate itself offers FSDP for GPUs only
        PartialState(cpu=True)
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU  # what FSDP is chosen from
    full = small_files(largest_file) if largest_file else nullcontext()
    with full, open(log, "w") as file, redirect_stdout(file), redirect_stderr(file):
        sys.exit(command(options))
