"""How kernels are judged: devices, measurement, statistics, records and reports.

Imports run one way: `cli`, `pytest_plugin` -> `report` -> `measure`, `judge` -> `device` -> `kernels`. `record` stands
alone: it knows JSON and nothing else.
"""

import sys
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parents[1])
if sys.path[:1] != [_ROOT]:  # pytest loads the plugin before conftest.py; another `kernels` may be installed
    sys.path.insert(0, _ROOT)
