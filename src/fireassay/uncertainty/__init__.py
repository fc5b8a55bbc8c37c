"""How wrong a prediction is likely to be, and whether such an estimate can be trusted."""
