"""Building blocks of the networks: plain tensors in, plain tensors out."""
