"""Commands around training: figures of a model, the paper's ablations, objectives where the answer is known."""
