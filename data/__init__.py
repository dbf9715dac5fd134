"""IG3D: row schema, converters, expressions and rendered images; building, validating and splitting data sets."""
