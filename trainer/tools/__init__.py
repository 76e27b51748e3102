"""Commands around training: the papers' ablations, objectives where the answer is known."""
