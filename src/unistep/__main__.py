"""`python -m unistep`: the command."""

import sys

from unistep.cli import main

sys.exit(main())
