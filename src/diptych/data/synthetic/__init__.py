"""The synthetic data set: rendered scenes with captions, as a clean set and as a noisy crawl."""
