"""Lets the tests of the rivals import `slow_reference.py`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
