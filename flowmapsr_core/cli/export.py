"""``flowmapsr export``: a model as an ONNX file."""

from argparse import Namespace

from ..errors import UserError, WithoutVAE
from ..files.checkpoint import load_model
from ..files.onnx_file import OF_LATENTS, export_onnx
from .save import saving


def run(options: Namespace) -> int:
    """Write one evaluation of a model."""
    if options.output.suffix != ".onnx":
        raise UserError(f"{options.output}: an export is an .onnx file; end the name so")
    try:
        with saving(options.output):
            export_onnx(load_model(options.model), options.model, options.output)
    except WithoutVAE as error:
        raise UserError(OF_LATENTS.format(options.model)) from error
    return 0
