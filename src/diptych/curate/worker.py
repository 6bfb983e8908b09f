"""A worker process of the local engine: reads one unit a line, does it, answers with one line.

Usage: python -m diptych.curate.worker FOLDER
"""

import json
import os
import sys
from pathlib import Path

from diptych.curate.engines import answer_for
from diptych.curate.pipeline import STAGES, open_run


def main() -> None:
    """Serve until the questions end."""
    run = open_run(Path(sys.argv[1]))
    out = os.dup(1)
    os.dup2(2, 1)  # what libraries print must not end up between the answers
    for line in sys.stdin:
        stage, number = json.loads(line)
        os.write(out, (json.dumps(answer_for(run, STAGES[stage], number)) + "\n").encode())


if __name__ == "__main__":
    main()
