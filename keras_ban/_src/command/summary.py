"""`keras-ban summary RUN`."""

from keras_ban._src.command.stored_runs import read, terminal_width


def run(arguments):
    """Print the table of a run."""
    stored = read(arguments.run)
    if not stored.entries:
        raise ValueError(f"{arguments.run} holds a run of which no generation is finished yet: continue it by `fit`.")
    print(stored.history().summary(width=terminal_width()))
