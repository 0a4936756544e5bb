"""`keras-ban report RUN [--out FILE]`."""

from keras_ban._src.command.stored_runs import history_of, read


def run(arguments):
    """Write the report of a run."""
    history_of(read(arguments.run)).report(arguments.out)
    print(f"{arguments.out} is the report of {arguments.run}")
