"""What is added to, or put around, the squared error to an objective's target."""
