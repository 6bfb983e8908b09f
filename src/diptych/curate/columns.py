"""The columns of the tables that pass between the stages of a curation.

Every stage after `candidates` keeps its tables row for row beside those of the stage before (or says by
key which rows it kept), so that images, the bulk of the bytes, are written once.
"""

import pyarrow as pa

CANDIDATES = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("image", pa.binary()),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("page", pa.string()),
        pa.field("license", pa.string()),
        pa.field("fields", pa.string()),
    ]
)
"""A pair before it is judged: `key` unique in the run; where the image is (`url`), or its encoded bytes
(`image`); `page` on which it was found; `license` as the source states it; `fields`: further columns as
one JSON object."""

QUERIES = pa.schema(
    [
        pa.field("query", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("count", pa.int64()),
        pa.field("score", pa.float64()),
    ]
)
"""A query's id is its row. `query` is in the form of `words.normalized`; `source` one of words, bigrams,
titles, wordnet, list; `count` how often it was seen there (views, for titles); `score` of bi-grams (mutual
information)."""

FETCHED = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("image", pa.binary()),
        pa.field("sha256", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("bytes", pa.int64()),
        pa.field("url", pa.string()),
        pa.field("http_status", pa.int32()),
        pa.field("content_type", pa.string()),
        pa.field("robots", pa.string()),
        pa.field("opt_out", pa.string()),
        pa.field("license", pa.string()),
    ]
)
"""What became of each candidate, row for row. `status`: "ok" or a `Reason`; `image`: encoded bytes that the
candidate did not have itself, null where it was dropped or keeps its own; `sha256` and `bytes` of the file as
it came; `width` and `height` of the upright image that is kept; `url` after redirects; `robots`: allowed,
disallowed, absent (the site has no robots.txt) or unreachable; `opt_out`: the signals that were found, with
commas; what was never asked or told is null."""
