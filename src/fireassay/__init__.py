"""fireassay trains machine-learned interatomic potentials and puts them through the fire.

The public names live in their rooms (`fireassay.potential`, `fireassay.data`, `fireassay.assays`, ...);
importing `fireassay` itself imports nothing heavy.
"""

from importlib.metadata import version

__version__ = version("fireassay")
__all__ = ["__version__"]
