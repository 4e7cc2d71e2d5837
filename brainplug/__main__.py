"""python -m brainplug is the command brainplug."""

import sys

from brainplug.cli import main
from brainplug.errors import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
