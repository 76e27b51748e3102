"""Files and folders of images: what goes where, shared out over processes, with a progress bar."""

import logging
import sys
from argparse import Namespace
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ..atomic import ABANDONED, remove_partials
from ..errors import UserError
from ..images.picture_files import PICTURES, READABLE, WRITABLE, check_place, check_writable
from ..upscaling.memory import is_out_of_memory
from ..video.clip import READABLE as CLIPS
from ..video.encodings import WRITABLE as WRITABLE_CLIPS
from .share import Share

log = logging.getLogger("flowmapsr")


@dataclass(frozen=True)
class Job:
    """One image: the file that is read, the one that is made, and the two of its map where one is asked for."""

    source: Path
    target: Path
    maps: tuple[Path, ...] = ()

    @property
    def made(self) -> tuple[Path, ...]:
        """All files that are made."""
        return (self.target, *self.maps)

    @property
    def is_clip(self) -> bool:
        """Whether it is no image but a clip."""
        return self.source.suffix.lower() in CLIPS


def plan_jobs(inputs: list[Path], output: Path, maps: Path | None = None, clips: bool = False) -> list[Job]:
    """Pair every input image, and clip if ``clips`` are taken, with its output file.

    One input file and an output with an extension: that file. Anything else: ``output`` is a folder, files
    keep their names (a folder's files also their place in it), and formats that cannot be written become PNG, or
    Matroska. What lies in ``output`` is no input, where ``output`` lies in a folder of inputs: an earlier run has made
    it. All of this goes for ``maps`` too, but there files of a folder are PNG.

    Raises :class:`UserError` if nothing is to be done, two results would get the same name, or one an input's.
    """
    folders = [output] if maps is None else [output, maps]
    readable = PICTURES | CLIPS if clips else READABLE
    if len(inputs) == 1 and not inputs[0].is_dir() and output.suffix and not output.is_dir():
        jobs = [Job(inputs[0], output, () if maps is None else _with_heat(maps))]
        _check_output(output, clips and jobs[0].is_clip)
        if maps is not None:
            check_writable(maps)
    else:
        for folder in folders:
            if folder.suffix.lower() in WRITABLE and not folder.is_dir():
                raise UserError(f"{folder} is one file for several images; give a folder")
        jobs, made = [], [folder.resolve() for folder in folders]
        for source in inputs:
            root = source if source.is_dir() else source.parent
            for file in _files_in(source, made, readable) if source.is_dir() else [source]:
                place = file.relative_to(root)
                beside = () if maps is None else _with_heat(maps / _named(place, {".png"}))
                jobs.append(Job(file, output / _named(place), beside))
        for folder in folders:
            check_writable(folder / "image.png")
    clip = next((job.source for job in jobs if clips and job.is_clip), None)
    if clip and maps is not None:
        raise UserError(f"{clip} is a clip, which gets no map; leave out --invention-map")
    if not jobs:
        places = " or ".join(str(folder) for folder in folders)
        raise UserError(f"all images lie in the output {places} itself; choose another output")
    _check_apart(jobs)
    return jobs


def _check_output(file: Path, is_clip: bool) -> None:
    """:class:`UserError` if a file cannot be written, as an image or as a clip."""
    if not is_clip:
        check_writable(file)
    elif file.suffix.lower() in WRITABLE_CLIPS:
        check_place(file)
    else:
        raise UserError(f"{file}: cannot write '{file.suffix}'; end the name in {', '.join(WRITABLE_CLIPS)}")


def _files_in(folder: Path, made: list[Path], readable: set[str]) -> list[Path]:
    """What can be read of a folder tree, but for what lies in folders inside it that are to be filled."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix.lower() in readable)
    if not files:
        raise UserError(f"{folder} holds no images ({', '.join(sorted(readable))})")
    inside = [path for path in made if path.is_relative_to(folder.resolve())]
    return [file for file in files if not any(file.resolve().is_relative_to(path) for path in inside)]


def _check_apart(jobs: list[Job]) -> None:
    """:class:`UserError` if two files that are made would get the same name, or one an input's."""
    sources = {job.source.resolve() for job in jobs}
    owners: dict[Path, Path] = {}
    for job in jobs:
        if job.target in job.maps:
            raise UserError(f"{job.target} would be a picture and its map; choose another place for maps")
        for file in job.made:
            other = owners.setdefault(file, job.source)
            if other != job.source:
                raise UserError(f"{other} and {job.source} would both become {file}; take them one by one")
            if file.resolve() in sources:
                raise UserError(f"{file} is an input itself; choose another output")


Make = Callable[[Job, Callable[[int, int], None]], None]  # makes an image, and calls progress(done, total)


@dataclass(frozen=True)
class Task:
    """What a command does with images.

    Attributes:
        prepare: called once if there is anything to do; gives what makes an image.
        done: what has been done with an image then.
        unit: what an image's progress is counted in.
        less: what takes less memory.
    """

    prepare: Callable[[], Make]
    done: str
    unit: str
    less: str


def run_jobs(jobs: list[Job], options: Namespace, share: Share, task: Task) -> int:
    """Do this process's share of the jobs; what goes wrong with single images is a line each, and the others are made.

    Those whose output is there are skipped: outputs are renamed into place, so one that is there is whole.

    Args:
        jobs: from :func:`plan_jobs`, the same in all processes.
        options: ``overwrite`` what is there; ``quiet``.
        share: this process's part in the work.
        task: what is done.

    Returns:
        The command's exit status: 2 if images failed, in the process that speaks to the user.

    Raises:
        UserError: from ``task.prepare``.
    """
    mine = share.of(jobs)  # of all jobs, as the list of what is left would differ from process to process
    for folder in {file.parent for job in mine for file in job.made}:
        remove_partials(folder, ABANDONED)
    todo = [job for job in mine if options.overwrite or not all(file.exists() for file in job.made)]
    failures = share.gather(_run(todo, options, share, task) if todo else [])
    skipped = sum(share.gather([len(mine) - len(todo)]))
    if not share.is_main:
        return 0  # a process that fails takes the others with it, unheard
    for failure in failures:
        print(f"flowmapsr: error: {failure}", file=sys.stderr)
    if len(jobs) > 1 and not options.quiet:
        there = f", {skipped} were there already" if skipped else ""
        print(f"{len(jobs) - len(failures) - skipped} of {len(jobs)} images {task.done}{there}", file=sys.stderr)
    return 2 if failures else 0


def _run(jobs: list[Job], options: Namespace, share: Share, task: Task) -> list[str]:
    make, failures = task.prepare(), []
    for number, job in enumerate(jobs, 1):
        silent = options.quiet or not share.is_main
        with (
            tqdm(desc=title(number, jobs), unit=task.unit, disable=silent, leave=len(jobs) == 1) as bar,
            logging_redirect_tqdm(),  # what is logged gets lines of its own
        ):
            try:
                make(job, partial(_advance, bar))
            except Exception as error:  # whatever is odd about one image, the others are made
                failures.append(failure(error, job, task.less))
    return failures


def title(number: int, jobs: list[Job]) -> str:
    """What a progress bar calls one of several jobs, counted from 1."""
    name = jobs[number - 1].source.name
    return name if len(jobs) == 1 else f"{number}/{len(jobs)} {name}"


def failure(error: Exception, job: Job, less: str) -> str:
    """What went wrong with a job, as :func:`in_one_line` has it; where in the program is logged, if one may ask."""
    if not isinstance(error, UserError):
        log.info("%s", job.source, exc_info=True)
    return in_one_line(error, job.source, less)


def _advance(bar: tqdm, done: int, total: int) -> None:
    bar.total = total
    bar.update(done - bar.n)


def in_one_line(error: Exception, source: Path, less: str) -> str:
    """What went wrong with an image, as text: the exception itself would hold on to its tensors.

    ``less`` is what takes less memory.
    """
    if isinstance(error, UserError):
        return str(error) if str(source) in str(error) else f"{source}: {error}"
    if is_out_of_memory(error):
        return f"{source}: not enough memory; close other programs, or use {less}"
    dynamo = sys.modules.get("torch._dynamo.exc")  # not imported for this: it takes seconds, and memory
    if dynamo is not None and isinstance(error, dynamo.TorchDynamoException):
        return f"{source}: --compile does not work here ({str(error).splitlines()[0]}); leave it out"
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{source} is too odd ({what}); --verbose says where. Save it anew with another program"


def _named(path: Path, formats: Collection[str] = (*WRITABLE, *WRITABLE_CLIPS)) -> Path:
    """The name itself where it is that of a format that is written, else with another behind it."""
    otherwise = ".mkv" if path.suffix.lower() in CLIPS else ".png"
    return path if path.suffix.lower() in formats else path.with_name(path.name + otherwise)


def _with_heat(path: Path) -> tuple[Path, Path]:
    """A map, and the picture of its heat beside it."""
    return path, path.with_name(f"{path.stem}-heat{path.suffix}")
