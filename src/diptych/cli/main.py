"""The `diptych` command: one word per job, results as JSON on stdout, progress on stderr.

Exit codes: 0 done, 2 wrong usage, 3 too much bad data, 4 environment (disk, memory, a missing package),
5 integrity (a file is not what it was), 130 and 143 stopped by a signal.
"""

import os
import signal
import sys
from collections.abc import Sequence

from diptych.core.errors import DiptychError

BROKEN_PIPE = 141  # 128 + SIGPIPE, as a shell reports it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: words after `diptych`; None takes those of the process.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words in (["--version"], ["-V"]):
        from diptych import __version__

        print(f"diptych {__version__}")  # noqa: T201 - this is the command's answer
        return 0
    try:
        return _dispatch(words)
    except DiptychError as error:
        _say(f"diptych: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        _say("diptych: stopped")
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except MemoryError:
        _say("diptych: out of memory; lower train.batch_size, or close other programs")
        return 4


def _dispatch(words: Sequence[str]) -> int:
    import tyro

    from diptych.cli.commands import COMMANDS

    app = tyro.extras.SubcommandApp()
    for name, command in COMMANDS.items():
        app.command(name=name)(command)
    return int(
        app.cli(
            args=words or ["--help"],
            prog="diptych",
            description="The whole of CLIP in one house: pairs in, a zero-shot model out.",
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
            use_underscores=False,
        )
        or 0
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201 - the one place that speaks to the user


if __name__ == "__main__":
    sys.exit(main())
