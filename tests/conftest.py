"""What every test file relies on: the tools importable by name, figures without a screen, no time limit on slow machines."""

import os
import sys
from pathlib import Path

from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
os.environ.setdefault("MPLBACKEND", "Agg")
settings.register_profile("book", deadline=None)
settings.load_profile("book")
