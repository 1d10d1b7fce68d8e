"""Settings that every test shares: one thread, a fixed seed, reproducible generated examples."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings

settings.register_profile("onward", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("onward")
torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=30, help="processes to kill in the test of exact resume (default 30)")


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)
