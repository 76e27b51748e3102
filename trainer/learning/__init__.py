"""How weights change: their average, a LoRA beside them, and the learning rate."""
