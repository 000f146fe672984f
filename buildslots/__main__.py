"""`python -m buildslots`: the command `buildslots`, where no script of that name is on PATH."""

import sys

from buildslots.view.main import main

sys.exit(main())
