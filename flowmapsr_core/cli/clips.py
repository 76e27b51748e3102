"""Clips that are upscaled frame by frame: their parts shared out over processes, and joined by one of them."""

import json
import logging
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ..errors import UserError
from ..images.record import PROGRAM, Record
from ..video.clip import Clip, read_clip
from ..video.encodings import Encoding, choose_encoding
from ..video.joining import check_holds, join
from ..video.parts import Parts, write_part
from .folder import Job, in_one_line
from .share import Share

log = logging.getLogger("flowmapsr")

Size = tuple[int, int]
Enlarge = Callable[[Tensor, Size], Tensor]  # a frame (1, 3, h, w) in [0, 1] as (1, 3, *size)


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
    status = 0
    for number, job in enumerate(todo, 1):
        title = job.source.name if len(todo) == 1 else f"{number}/{len(todo)} {job.source.name}"
        failures: list[str] = []
        with logging_redirect_tqdm():
            try:
                making = Making(job, options, size_of, record)
                if share.is_main:
                    making.begin()
                share.gather([])  # the others wait for it
                making.run(enlarge, share, tqdm(desc=title, unit="frame", disable=options.quiet or not share.is_main))
            except Exception as error:  # whatever is odd about one clip, the others are made
                failures.append(_failure(error, job))
            failures = share.gather(failures)
            if share.is_main and not failures:
                try:
                    making.finish()
                except Exception as error:
                    failures.append(_failure(error, job))
        for failure in dict.fromkeys(failures) if share.is_main else ():
            print(f"flowmapsr: error: {failure}", file=sys.stderr)
            status = 2
    return status


class Making:
    """What becomes of a clip; :class:`UserError` if the clip cannot be read, or not be made as it is asked for."""

    def __init__(self, job: Job, options: Namespace, size_of: Callable[[Size], Size], record: Record) -> None:
        self.clip = read_clip(job.source, options.start, options.end, options.every)
        self.encoding = choose_encoding(self.clip, job.target, options.codec, options.quality)
        self.target, self.size = job.target, _even(size_of(self.clip.size))
        self.record: Record = {**record, "from": _in_pixels(self.clip.size), "to": _in_pixels(self.size)}
        self.parts = Parts(self.clip, job.target)

    def begin(self) -> None:
        """Say what cannot be kept, and take possession of the parts."""
        check_holds(self.clip, self.encoding, self.target)
        if self.parts.claim(made_of(self.clip, self.encoding, self.record)):
            log.warning("%s: what an earlier run has made was for other settings, and is made anew", self.target)

    def run(self, enlarge: Enlarge, share: Share, bar: tqdm) -> None:
        """Make this process's parts."""
        own = share.of(list(range(len(self.parts.stamps))))
        with bar:
            bar.total = sum(len(self.parts.stamps[index]) for index in own)
            left = set(self.parts.missing)
            bar.update(sum(len(self.parts.stamps[index]) for index in own if index not in left))
            for index in own:
                if index in left:
                    frames = self._frames(self.parts.stamps[index], enlarge, bar)
                    write_part(self.parts.file(index), frames, self.clip, self.encoding)

    def finish(self) -> None:
        """Join the parts, which are not needed any more then."""
        files = {self.parts.file(index): stamps[0] for index, stamps in enumerate(self.parts.stamps)}
        join(files, self.clip, self.encoding, self.target, PROGRAM + json.dumps(self.record))
        self.parts.remove()

    def _frames(self, stamps: tuple[int, ...], enlarge: Enlarge, bar: tqdm) -> Iterator[tuple[int, Tensor]]:
        for stamp, picture in self.clip.frames(stamps):
            yield stamp, enlarge(picture, self.size)
            bar.update()


def made_of(clip: Clip, encoding: Encoding, record: Record) -> dict[str, Any]:
    """All that the parts of a clip follow from, as JSON data."""
    file = clip.path.stat()
    return {
        "source": [clip.path.name, file.st_size, file.st_mtime_ns],
        "frames": [len(clip.stamps), clip.stamps[0], clip.stamps[-1]],
        "encoding": asdict(encoding),
        "record": record,
    }


def _even(size: Size) -> Size:
    """A size of whole squares of 2 x 2 pixels, each of which has one colour in most clips: a pixel more, if need be."""
    height, width = (side + side % 2 for side in size)
    return height, width


def _in_pixels(size: Size) -> str:
    return f"{size[1]}x{size[0]}"


def _failure(error: Exception, job: Job) -> str:
    if not isinstance(error, UserError):
        log.info("%s", job.source, exc_info=True)
    return in_one_line(error, job.source, "a smaller --scale or --tile")
