"""Prompt templates, class names, prompt ablation and word-sense disambiguation."""
