from __future__ import annotations

import pytest
import torch

from fireassay.data.datasets import Dataset
from fireassay.potential import Baseline
from training.toy_frames import CUTOFF, labelled_frames, network


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def train() -> Dataset:
    return Dataset(labelled_frames(12), CUTOFF)


@pytest.fixture
def validation() -> Dataset:
    return Dataset(labelled_frames(5, seed=1), CUTOFF)


@pytest.fixture
def potential() -> Baseline:
    return network()
