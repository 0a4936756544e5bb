"""When training stops before its end: at once, and with a word on what is kept and how to go on."""

import contextlib
import os
import signal
import sys
import threading


@contextlib.contextmanager
def told(kept):
    """A context to train in: what stops it, Ctrl-C and SIGTERM too, says what is kept.

    Errors and Ctrl-C have it as their note, below the traceback; SIGTERM, which ends the process without a traceback,
    writes it to stderr. (Not said of `FloatingPointError`: who goes on as before gets the same numbers again.)

    Args:
        kept: a function that returns what is kept, in words.
    """
    try:
        with _sigterm_ends_in_order():
            yield
    except FloatingPointError:
        raise
    except BaseException as error:
        mend = "Mend what it says, then call" if isinstance(error, Exception) else "Call"
        note = f"{kept()}. {mend} `fit` as before, in this process or another, to go on from there."
        error.add_note(note)
        if isinstance(error, SystemExit):
            print(f"Training was stopped. {note}", file=sys.stderr, flush=True)
        raise


@contextlib.contextmanager
def _sigterm_ends_in_order():
    """Where nobody else has a handler for SIGTERM, it raises `SystemExit`: what is open is closed on the way up.

    The exit code is 143, as shells give it for SIGTERM. A second SIGTERM ends the process at once, as ever.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    process = os.getpid()

    def stop(number, frame):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if os.getpid() != process:
            os.kill(os.getpid(), signal.SIGTERM)  # A worker, which was forked with this handler.
        else:
            raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is stop:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
