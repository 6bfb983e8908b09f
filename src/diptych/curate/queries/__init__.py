"""Queries from text corpora: articles, words and word pairs counted, page views, titles."""
