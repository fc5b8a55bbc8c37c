"""Ways in and out: other people's calculators, checkpoints and simulation engines."""
