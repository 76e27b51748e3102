"""Variants of one recipe, trained equally long and compared on photographs that none of them saw."""
