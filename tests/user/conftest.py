"""Makes the programs of this folder importable: test folders are not packages."""

import sys
from pathlib import Path

FOLDER = str(Path(__file__).resolve().parents[1])
if FOLDER not in sys.path:
    # Behind everything else: a test folder must not hide a module.
    sys.path.append(FOLDER)
