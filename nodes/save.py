"""Save Photograph."""

from comfy.cli_args import args
from comfy_api.latest import io, ui
from torch import Tensor

from ..flowmapsr_core.atomic import ABANDONED, remove_partials
from ..flowmapsr_core.images.picture_files import QUALITY, Picture, write_picture
from ..flowmapsr_core.images.record import in_pixels, with_record
from .comfyui.history import history, loaded_file, texts
from .comfyui.images import singles, split_alpha
from .comfyui.output_files import output_files
from .comfyui.schema import make_schema
from .comfyui.source import Source, SourceType, read_source

FORMATS = {  # extension, and bits per sample
    "png": (".png", 8),
    "png 16-bit": (".png", 16),
    "jpeg": (".jpg", 8),
    "webp": (".webp", 8),
    "tiff": (".tif", 8),
    "tiff 16-bit": (".tif", 16),
    "exr": (".exr", 16),  # in half floats
}
UNSEEN = (".tif", ".exr")  # what browsers do not show
NO_NAME = "FlowMapSR"
TINT = 0.02  # mean difference between the channels of what passes for gray: upscalers leave some of it


class Save(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlowMapSR_Save",
            display_name="Save Photograph",
            category="image/upscaling/FlowMapSR",
            description="Saves images with the camera's metadata, and with what it takes to make them again.",
            search_aliases=["save image", "exif", "icc profile", "xmp", "16 bit", "jpeg", "webp", "tiff", "exr"],
            inputs=[
                io.Image.Input("images", tooltip="One image or a batch. Alpha is kept, but for jpeg."),
                io.String.Input(
                    "filename_prefix",
                    default="%name%",
                    tooltip="As in Save Image. %name% is the name of source's file. A number follows it.",
                ),
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    default="png",
                    tooltip="16 bits keep smooth gradients smooth, exr light brighter than white.",
                ),
                io.Int.Input(
                    "quality", default=QUALITY, min=1, max=100, tooltip="Counts for jpeg and webp: 100 is the best."
                ),
                SourceType.Input(
                    "source",
                    optional=True,
                    tooltip="Name, EXIF, ICC profile, XMP and resolution of the photograph, from Load Low-Res Image. "
                    "If nothing is connected, of the file that the images come from.",
                ),
            ],
            outputs=[],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, images: Tensor, filename_prefix: str, format: str, quality: int, source: Source | None = None
    ) -> io.NodeOutput:
        color, alpha = split_alpha(images)
        size, (suffix, bits) = (color.shape[-2], color.shape[-1]), FORMATS[format]
        source = source or read_source(loaded_file(cls.hidden.prompt or {}, cls.hidden.unique_id))
        name = NO_NAME if source is None else source.name.rpartition(".")[0] or source.name
        files = output_files(filename_prefix, name, size, suffix)
        metadata = {} if source is None else source.metadata
        if not args.disable_metadata:
            metadata = cls.with_history(metadata, source, size)
        saved = []
        for index, image in enumerate(singles(color)):
            path, folder = next(files)
            remove_partials(path.parent, ABANDONED)
            gray = source is not None and source.gray and is_gray(image)
            picture = Picture(
                image.mean(dim=1, keepdim=True).expand_as(image) if gray else image,
                None if alpha is None else alpha[index, None],
                gray,
                bits,
                metadata if gray else without_gray_profile(metadata),
            )
            write_picture(picture, path, quality)
            saved.append(ui.SavedResult(path.name, folder, io.FolderType.output))
        return io.NodeOutput(ui=ui.PreviewImage(images) if suffix in UNSEEN else ui.SavedImages(saved))

    @classmethod
    def with_history(cls, metadata: dict, source: Source | None, size: tuple[int, int]) -> dict:
        """The metadata with a record of how the images were made, and with the workflow."""
        prompt = cls.hidden.prompt
        record = history(prompt or {}, cls.hidden.unique_id)
        if source is not None:
            record |= {"source": source.name, "from": in_pixels(source.size)}
        recorded = with_record(metadata, {**record, "to": in_pixels(size)})
        return {**recorded, "text": texts(prompt, cls.hidden.extra_pnginfo)}


def is_gray(image: Tensor) -> bool:
    """Whether an image (1, 3, H, W) has next to no colour."""
    return (image.amax(dim=1) - image.amin(dim=1)).mean().item() < TINT


def without_gray_profile(metadata: dict) -> dict:
    """Metadata of a picture with colour: an ICC profile of gray does not describe it."""
    profile = metadata.get("icc_profile", b"")
    return {key: value for key, value in metadata.items() if key != "icc_profile" or profile[16:20] != b"GRAY"}
