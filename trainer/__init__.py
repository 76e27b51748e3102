"""Training of flow maps: ``python -m flowmapsr.trainer RECIPE.toml``."""
