"""A run: its stages one after another, what they start from, leave behind and resume from."""
