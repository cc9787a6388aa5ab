"""What the tests of checkpoints share."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from checkpoint_plans import small_plan


@pytest.fixture
def plan():
    return small_plan()
