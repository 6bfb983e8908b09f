"""From public dumps to a balanced data set: queries, candidates, matches, pictures, shards. Without torch."""
