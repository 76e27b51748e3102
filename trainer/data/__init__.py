"""What the network is trained on: photographs, crops of them, their degraded counterparts, and times."""
