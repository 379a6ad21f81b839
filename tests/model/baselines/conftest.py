"""Tests of the rivals use the tiny shop of the model tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
