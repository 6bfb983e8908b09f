"""The two towers: settings, blocks, image and text towers, weight initialization, numerics."""
