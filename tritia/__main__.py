"""`python -m tritia` is the command `tritia`."""

from __future__ import annotations

import sys

from tritia._command_line.main import main

if __name__ == "__main__":
    sys.exit(main())
