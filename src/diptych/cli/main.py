"""The `diptych` command: one word per job, results as JSON on stdout, progress and messages on stderr.

Exit codes: 0 done, 2 wrong usage, 3 too much bad data, 4 environment (disk, memory, permissions, a missing
package), 5 integrity (a file is not what it was), 130 and 143 stopped by a signal. A traceback is a bug.
"""

import errno
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from diptych.core.errors import DiptychError, EnvironmentFault, UsageError, unknown_name
from diptych.core.machine import sleep_where_contended

BROKEN_PIPE = 141  # 128 + SIGPIPE, as a shell reports it

# Errors of the system that the user can mend; any other is a bug of ours and keeps its traceback
MACHINE_FAULTS = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE,
)  # fmt: skip

OUT_OF_MEMORY = "can't allocate memory"  # how torch's CPU allocator words it, in a plain RuntimeError


class Terminated(BaseException):
    """SIGTERM came outside the training loop; unwinds the stack so that temporary files go."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the words after `diptych`, by default those of the process, and return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    sleep_where_contended()
    if arguments is None:  # a process of ours: warnings look like its other messages
        warnings.formatwarning = lambda message, *_, **__: f"diptych: {message}\n"
    try:
        with _unwinding_on_sigterm():
            code = _dispatch(words)
            sys.stdout.flush()  # here, where a closed pipe can be caught
        return code
    except KeyboardInterrupt:
        return _stopped(signal.SIGINT)
    except Terminated:
        return _stopped(signal.SIGTERM)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (DiptychError, OSError, MemoryError, RuntimeError) as error:
        ours = _as_ours(error)
        if ours is None:
            raise
        if isinstance(ours, UsageError) and not ours.fix:
            ours.fix = f"see diptych {words[0]} --help"
        _say(f"diptych: {ours}")
        return ours.exit_code


def _as_ours(error: Exception) -> DiptychError | None:
    """Return the error that the user can do something about; None for a bug."""
    if isinstance(error, DiptychError):
        return error
    if isinstance(error, OSError):
        if error.errno not in MACHINE_FAULTS:
            return None
        where, actual = error.filename or "", error.strerror or error
        fix = "check permissions and free space"
        return EnvironmentFault("the system refused", where=where, found=actual, fix=fix)
    if isinstance(error, MemoryError) or OUT_OF_MEMORY in str(error):
        return EnvironmentFault("out of memory", fix="lower train.batch_size, or close other programs")
    return None


def _dispatch(words: Sequence[str]) -> int:
    if list(words) in (["--version"], ["-V"]):
        from diptych import __version__

        sys.stdout.write(f"diptych {__version__}\n")
        return 0

    import tyro

    from diptych.cli.commands import COMMANDS

    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        error = unknown_name("command", words[0], COMMANDS)
        error.fix = error.fix or "see diptych --help"
        raise error
    app = tyro.extras.SubcommandApp()
    for name, command in COMMANDS.items():
        app.command(name=name)(command)
    try:
        code = app.cli(
            args=words or ["--help"],
            prog="diptych",
            description="The whole of CLIP in one package: image-text pairs in, a zero-shot model out.",
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
            use_underscores=False,
        )
    except SystemExit as end:  # --help, or words that no command takes
        code = end.code
    return int(code or 0)


@contextmanager
def _unwinding_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end this process as Ctrl-C does; worker processes keep the system's way and just die."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    mine = os.getpid()

    def unwind(number: int, frame: FrameType | None) -> None:
        del frame
        if os.getpid() == mine:
            raise Terminated
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    before = signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stopped(number: int) -> int:
    _say("diptych: stopped; what was finished is kept: run the same command again to go on")
    return 128 + number


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
