"""The columns of the tables that pass between the stages of a curation.

Every stage after `candidates` keeps its tables row for row beside those of the stage before (or says which
rows it kept), so that images, the bulk of the bytes, are written once.
"""

import pyarrow as pa


def _required(name: str) -> pa.Field:
    return pa.field(name, pa.string(), nullable=False)


# A candidate pair: `key` unique in the run; where the image is (`url`) or its encoded bytes (`image`); `page`
# on which it was found; `license` as the source states it; `fields`: further columns as one JSON object.
CANDIDATES = pa.schema(
    [
        _required("key"),
        ("url", pa.string()),
        ("image", pa.binary()),
        _required("caption"),
        ("page", pa.string()),
        ("license", pa.string()),
        ("fields", pa.string()),
    ]
)

# A query's id is its row. `query` as `words.normalized` returns it; `source` one of words, bigrams, titles,
# wordnet, list; `count` how often it was seen there (views, for titles); `score` of bigrams in bits.
QUERIES = pa.schema([_required("query"), _required("source"), ("count", pa.int64()), ("score", pa.float64())])

# What became of each candidate, row for row. `status`: "ok" or a `Reason`; `image`: encoded bytes that the
# candidate did not have itself, null where it was dropped or keeps its own; `sha256` and `bytes` of the file
# as it came; `width` and `height` of the upright image that is kept; `url` after redirects; `robots`:
# allowed, disallowed, absent (the site has no robots.txt) or unreachable; `opt_out`: the signals.
FETCHED = pa.schema(
    [
        _required("key"),
        _required("status"),
        ("image", pa.binary()),
        ("sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("bytes", pa.int64()),
        ("url", pa.string()),
        ("http_status", pa.int32()),
        ("content_type", pa.string()),
        ("robots", pa.string()),
        ("opt_out", pa.string()),
        ("license", pa.string()),
    ]
)
