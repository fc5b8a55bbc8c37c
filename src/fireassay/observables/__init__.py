"""What can be read off a trajectory: structure and dynamics, as plain functions of numpy arrays."""
