"""`python -m keras_ban`: as `keras-ban`."""

import sys

from keras_ban._src.command import command_line

if __name__ == "__main__":
    sys.exit(command_line.main())
