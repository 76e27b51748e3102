"""Every touch of ComfyUI's internals: its memory, its VAEs, its files, its images."""
