"""`python -m tritia` is the command `tritia`."""

from __future__ import annotations

import sys

from _tritia_command import main

if __name__ == "__main__":
    sys.exit(main())
