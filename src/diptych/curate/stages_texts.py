"""The stages that look at texts alone: queries, candidates, filter, match, balance.

Each is the glue between the files of a curation and the pure functions of the part that it is named after. The
tables after `candidates` hold the number of the row in the candidates' table of the same unit, and what is new.

Writes: `queries/queries.parquet`; for every unit the candidates; of the rows that pass, `filter` (row, caption),
`match` (row, ids) and `balance` (row, ids: the queries for which the pair was drawn).
"""

from typing import Any

import numpy as np
import pyarrow as pa

from diptych.core.manifest import FileEntry
from diptych.core.records import Counts, Reason
from diptych.curate.stages import Run, Stage, Write, read_table, table_files, tables
