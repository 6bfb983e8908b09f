"""The columns of the tables that pass between the stages of a curation.

Every stage after `candidates` keeps its tables row for row beside those of the stage before (or says which
rows it kept), so that images, the bulk of the bytes, are written once.
"""

import pyarrow as pa


def _schema(columns: str) -> pa.Schema:
    """Return a schema of `name:type`, strings where no type is given; a column marked "!" is never null."""
    fields = []
    for column in columns.split():
        name, _, kind = column.rstrip("!").partition(":")
        fields.append(pa.field(name, pa.type_for_alias(kind or "string"), nullable=column[-1] != "!"))
    return pa.schema(fields)


# A candidate pair: `key` unique in the run; where the image is (`url`) or its encoded bytes (`image`); `page`
# on which it was found; `license` as the source states it; `fields`: further columns as one JSON object.
CANDIDATES = _schema("key! url image:binary caption! page license fields")

# A query's id is its row. `query` as `words.normalized` returns it; `source` one of words, bigrams, titles,
# wordnet, list; `count` how often it was seen there (views, for titles); `score` of bigrams in bits.
QUERIES = _schema("query! source! count:int64 score:float64")

# What became of each candidate, row for row. `status`: "ok" or a `Reason`; `image`: encoded bytes that the
# candidate did not have itself, null where it was dropped or keeps its own; `sha256` and `bytes` of the file
# as it came; `width` and `height` of the upright image that is kept; `url` after redirects; `robots`:
# allowed, disallowed, absent (the site has no robots.txt) or unreachable; `opt_out`: the signals.
FETCHED = _schema(
    "key! status! image:binary sha256 width:int32 height:int32 bytes:int64 url http_status:int32 "
    "content_type robots opt_out license"
)
