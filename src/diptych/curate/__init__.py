"""From public dumps to a balanced data set: queries, candidates, matches, images, shards. Without torch."""
