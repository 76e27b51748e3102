"""Files that models come from and go to: checkpoints, LoRAs, VAEs, diffusers folders, other models, the Hub."""
