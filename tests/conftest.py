"""Fixtures that several rooms share, and hypothesis in a form that gives the same answer every time."""

import signal

from hypothesis import settings

from run_folder import project, write_frames

__all__ = ["project", "write_frames"]

settings.register_profile("fireassay", derandomize=True, deadline=None, max_examples=60, database=None)
settings.load_profile("fireassay")

# A shell without job control starts what runs in the background deaf to Ctrl-C, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
