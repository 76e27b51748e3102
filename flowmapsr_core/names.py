"""Names that the user chooses from, where the command line's parser finds them without importing torch."""

CODECS = ("h264", "h265", "av1", "prores", "ffv1")
COLORS = (
    "lr-residual", "wavelet", "adain", "lab", "transport", "transport-smooth", "back-projection", "none",
)  # fmt: skip
DEGRADATIONS = ("flowmapsr", "bicubic", "real-esrgan", "camera")
DTYPES = ("float32", "bfloat16", "float16")
METRICS = (
    "psnr-y", "psnr-rgb", "ssim-y", "ssim-rgb", "ms-ssim-y", "ms-ssim-rgb", "high-frequency", "features",
    "features-lite2", "lpips", "dists", "color", "lr-consistency", "pixel-grid", "seams", "niqe", "musiq", "maniqa",
    "clipiqa", "fid",
)  # fmt: skip
WRAPS = ("x", "y", "xy")
