"""How good pictures are: measures, what is measured, and the reports of it."""
