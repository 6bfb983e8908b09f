"""Tokenizers: CLIP's byte pairs and the vocabularies of other families."""
