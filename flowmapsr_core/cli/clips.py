"""Clips that are upscaled frame by frame: their parts shared out over processes, and joined by one of them."""

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ..images.record import Record
from ..video.clip import read_clip
from ..video.encodings import choose_encoding
from ..video.making import Enlarge, Making, Size
from .folder import Job, failure, title
from .share import Share


def run_clips(
    jobs: list[Job],
    options: Namespace,
    share: Share,
    size_of: Callable[[Size], Size],
    prepare: Callable[[], tuple[Enlarge, Record]],
) -> int:
    """Upscale clips, one after another; what goes wrong with one is a line, and the others are made.

    Those that are there are skipped, as :func:`.folder.run_jobs` does. A clip whose making was stopped, by whatever,
    goes on after its last whole part.

    Args:
        jobs: the same in all processes.
        options: of the command; ``overwrite`` clips that are there.
        share: this process's part in the work.
        size_of: output size of a frame's, both (height, width).
        prepare: called once if there is anything to do; gives what enlarges a frame, and what clips say of it.

    Returns:
        The command's exit status: 2 if clips failed, in the process that speaks to the user.

    Raises:
        UserError: from ``prepare``.
    """
    todo = [job for job in jobs if options.overwrite or not job.target.exists()]
    if not todo:
        return 0
    enlarge, record = prepare()
    failures = []
    for number, job in enumerate(todo, 1):
        silent = options.quiet or not share.is_main
        bar = tqdm(desc=title(number, todo), unit="frame", disable=silent, leave=len(todo) == 1)
        with bar, logging_redirect_tqdm():
            failures += _make(_steps(job, options, share, size_of, enlarge, record, bar), job, share)
    for line in failures if share.is_main else ():
        print(f"flowmapsr: error: {line}", file=sys.stderr)
    return 2 if failures and share.is_main else 0


def _make(steps: Iterator[None], job: Job, share: Share) -> list[str]:
    """Make one clip; returns what went wrong, in all processes. They meet after each step, whatever happens in one."""
    ended = False
    while not ended:
        failures: list[str] = []
        try:
            next(steps)
        except StopIteration:
            ended = True
        except Exception as error:  # whatever is odd about one clip, the others are made
            failures = [failure(error, job, "a smaller --scale or --tile")]
        failures = share.gather(failures)
        if failures:
            return list(dict.fromkeys(failures))
    return []


def _steps(
    job: Job,
    options: Namespace,
    share: Share,
    size_of: Callable[[Size], Size],
    enlarge: Enlarge,
    record: Record,
    bar: tqdm,
) -> Iterator[None]:
    """What a process does for a clip; where it yields it needs what all others have done."""
    clip = read_clip(job.source, options.start, options.end, options.every)
    encoding = choose_encoding(clip, job.target, options.codec, options.quality)
    making = Making(clip, encoding, job.target, size_of(clip.size), record, options.temporal)
    if share.is_main:
        making.begin()
    yield
    stamps, missing = making.parts.stamps, making.parts.missing
    own = share.of(list(range(len(stamps))))
    left = [index for index in own if index in missing]
    bar.total = sum(len(stamps[index]) for index in own)
    bar.update(bar.total - sum(len(stamps[index]) for index in left))
    making.run(left, enlarge, lambda frame: bar.update())
    yield
    if share.is_main:
        making.finish()
