"""IG3D: one row schema, one converter a source."""
