"""Clips that are upscaled frame by frame: their parts shared out over processes, and joined by one of them."""

import logging
import sys
from argparse import Namespace
from collections.abc import Callable

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ..errors import UserError
from ..images.record import Record
from ..video.clip import read_clip
from ..video.encodings import choose_encoding
from ..video.making import Enlarge, Making, Size
from .folder import Job, in_one_line
from .share import Share

log = logging.getLogger("flowmapsr")


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
        title = job.source.name if len(todo) == 1 else f"{number}/{len(todo)} {job.source.name}"
        bar = tqdm(desc=title, unit="frame", disable=options.quiet or not share.is_main, leave=len(todo) == 1)
        with bar, logging_redirect_tqdm():
            failures += _make(job, options, share, size_of, enlarge, record, bar)
    for failure in failures if share.is_main else ():
        print(f"flowmapsr: error: {failure}", file=sys.stderr)
    return 2 if failures and share.is_main else 0


def _make(
    job: Job,
    options: Namespace,
    share: Share,
    size_of: Callable[[Size], Size],
    enlarge: Enlarge,
    record: Record,
    bar: tqdm,
) -> list[str]:
    """Make one clip; returns what went wrong, in all processes. They meet after each step, whatever happens in one."""
    making: list[Making] = []

    def begin() -> None:
        clip = read_clip(job.source, options.start, options.end, options.every)
        encoding = choose_encoding(clip, job.target, options.codec, options.quality)
        making.append(Making(clip, encoding, job.target, size_of(clip.size), record))
        if share.is_main:
            making[0].begin()

    def run() -> None:
        stamps, missing = making[0].parts.stamps, making[0].parts.missing
        own = share.of(list(range(len(stamps))))
        bar.total = sum(len(stamps[index]) for index in own)
        bar.update(sum(len(stamps[index]) for index in own if index not in missing))
        making[0].run(own, enlarge, lambda frame: bar.update())

    def finish() -> None:
        if share.is_main:
            making[0].finish()

    for step in (begin, run, finish):
        failures: list[str] = []
        try:
            step()
        except Exception as error:  # whatever is odd about one clip, the others are made
            if not isinstance(error, UserError):
                log.info("%s", job.source, exc_info=True)
            failures = [in_one_line(error, job.source, "a smaller --scale or --tile")]
        failures = share.gather(failures)
        if failures:
            return list(dict.fromkeys(failures))
    return []
