"""Reads an LMDB or HDF5 file once and throws the content away: `python trial.py lmdb|hdf5 FILE`.

The libraries behind these formats trust their files: a damaged one can end the process that reads it, whatever it
holds. So a process of its own reads first, and the real one only when that came back. Nothing of ours is imported here.
"""

from __future__ import annotations

import sys

SMALL = 1 << 28  # bytes that a dataset may always have
GROWTH = 1000  # times the size of the file that it may have else


def lmdb_values(path: str) -> None:
    """Touches every key and value of an LMDB."""
    import os

    import lmdb

    environment = lmdb.open(path, subdir=os.path.isdir(path), readonly=True, lock=False)
    with environment, environment.begin() as transaction:
        for key, value in transaction.cursor():
            _ = len(key) + sum(value[:: max(1, len(value) // 8)])


def hdf5_datasets(path: str) -> None:
    """Reads every dataset and attribute of an HDF5 file that is not far larger than the file."""
    import os

    import h5py

    most = max(SMALL, GROWTH * os.path.getsize(path))

    def read(group: h5py.Group, depth: int) -> None:
        """Reads what is in a group, groups in it included."""
        for key in group:
            if depth > 12 or not isinstance(group.get(key, getlink=True), h5py.HardLink):
                continue
            item = group[key]
            dict(item.attrs.items())
            if isinstance(item, h5py.Group):
                read(item, depth + 1)
            elif isinstance(item, h5py.Dataset) and not (item.external or item.is_virtual) and item.nbytes <= most:
                _ = item[()]

    with h5py.File(path, "r") as file:
        read(file, 0)


if __name__ == "__main__":
    try:
        {"lmdb": lmdb_values, "hdf5": hdf5_datasets}[sys.argv[1]](sys.argv[2])
    except Exception as error:
        print(f"{type(error).__name__} {error}", file=sys.stderr)
        sys.exit(1)
