"""The README's gallery and plot: what ``flowmapsr evaluate`` makes of them, at x4.

``pip install -e ".[evaluate,upscalers]" && python benchmarks/gallery.py --set14 FOLDER --output FOLDER UPSCALER...``
compares our models with other upscalers on the photographs of ``gallery/photos`` for the sheet, and the built-in one on
Set14 for the plot. Both are put into ``gallery``. The same command goes on where it stopped.
"""

import argparse
import shutil
import sys
from pathlib import Path

from flowmapsr.flowmapsr_core.cli.command import main as flowmapsr
from PIL import Image

GALLERY = Path(__file__).with_suffix("")
LOOKS = ("--models", "mini", "base", "--looks", "faithful", "balanced")
DIAL = ("--realism", "0", "0.25", "0.5", "0.75", "1")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("upscalers", nargs="+", help="files of other upscalers")
    parser.add_argument("--set14", type=Path, required=True, help="folder of its images")
    parser.add_argument("--output", type=Path, required=True, help="folder for all that is measured")
    options = parser.parse_args()
    shown, measured = options.output / "gallery", options.output / "set14"
    for images, results, settings in ((GALLERY / "photos", shown, LOOKS), (options.set14, measured, DIAL)):
        compared = ("--presets", "bicubic", "real-esrgan", "--factors", "4", "--baseline", *options.upscalers)
        status = flowmapsr(["evaluate", str(images), "--output", str(results), *compared, *settings])
        if status:
            return status
    Image.open(shown / "sheet.png").save(GALLERY / "sheet.jpg", quality=90)
    shutil.copy(measured / "plot.png", GALLERY / "plot.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
