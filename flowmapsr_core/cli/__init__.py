"""The ``flowmapsr`` command."""
