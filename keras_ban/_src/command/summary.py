"""`keras-ban summary RUN`."""

from keras_ban._src.command.stored_runs import history_of, read, terminal_width


def run(arguments):
    """Print the table of a run."""
    print(history_of(read(arguments.run)).summary(width=terminal_width()))
