"""Lets tests of rivals import the slow references of ``tests/model``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
