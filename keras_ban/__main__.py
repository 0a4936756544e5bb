"""`python -m keras_ban`: as `keras-ban`."""

import sys

import keras_ban_command

if __name__ == "__main__":
    sys.exit(keras_ban_command.main())
