"""IG3D-Synth: rendered scenes with exact cameras, boxes, masks and depth."""
