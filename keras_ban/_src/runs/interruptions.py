"""Handle interruptions of training: say what is kept, and how to continue."""

import contextlib
import os
import signal
import sys
import threading


@contextlib.contextmanager
def noting_what_is_kept(kept):
    """Return a context for training that adds a note about what is kept to errors, Ctrl-C and SIGTERM.

    SIGTERM ends the process without a traceback, so its note is written to stderr. A `FloatingPointError` gets no note,
    because the same training would fail again. `kept` is a function that returns a text about what is kept.
    """
    try:
        with _sigterm_ends_in_order():
            yield
    except FloatingPointError:
        raise
    except BaseException as error:
        advice = "Fix the cause, then call" if isinstance(error, Exception) else "Call"
        note = f"{kept()}. {advice} `fit` as before, in this process or another, to continue from there."
        error.add_note(note)
        if isinstance(error, SystemExit):
            print(f"Training was stopped. {note}", file=sys.stderr, flush=True)
        raise


@contextlib.contextmanager
def _sigterm_ends_in_order():
    """Raise `SystemExit` on SIGTERM, so that open files are closed, unless SIGTERM has a handler already.

    The exit code is 143, as in shells. A second SIGTERM ends the process at once.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    process = os.getpid()

    def stop(number, frame):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if os.getpid() != process:
            os.kill(os.getpid(), signal.SIGTERM)  # A worker process, forked with this handler.
        else:
            raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is stop:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
