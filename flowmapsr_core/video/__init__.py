"""Clips: which frames they have, and how these get into a clip again. PyAV, the extra ``video``, does the work."""
