"""Zero-shot classification and retrieval as arithmetic on embeddings, and the report that shows them."""
