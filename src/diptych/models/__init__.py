"""The two towers: configuration and presets, blocks, vision, ResNet, text, CLIP, checkpoints and key maps."""
