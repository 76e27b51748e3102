"""Names that the user chooses from, where the command line's parser finds them without importing torch."""

COLORS = (
    "lr-residual", "wavelet", "adain", "lab", "transport", "transport-smooth", "back-projection", "none",
)  # fmt: skip
DEGRADATIONS = ("flowmapsr", "bicubic", "real-esrgan")
DTYPES = ("float32", "bfloat16", "float16")
