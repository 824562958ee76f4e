"""`python -m unistep`: the command."""

import sys

from unistep.command.cli import main

sys.exit(main())
