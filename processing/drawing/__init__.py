# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Drawings of answers: overlays, heat maps, bird's-eye views and interactive 3D views.

A box to draw is a dict with `center`, `size` and `rotation` (camera frame, metres; see geometry_llmi3d), a `label` (or
`category`) and optionally a `score`: a box of the pipeline's answer, or an object of an IG3D row. Corners are computed
from these fields, so that a drawing never disagrees with the numbers. Boxes of a video may also have a `track`, a
number that sets their colour and precedes their label, and a `trail` of past centres.

The front face of a box is its +x (length) end: tinted and crossed in overlays, marked by a stroke from the middle of
the footprint in bird's-eye views. Distances are metres from the camera to the centre of the box (the length of
`center`, not its depth). With `svg=True` the functions return a self-contained SVG document as text.
"""

from llmi3d.processing.drawing.birds_eye import draw_birds_eye_view
from llmi3d.processing.drawing.overlays import draw_boxes, draw_pointing, shrunk
from llmi3d.processing.drawing.scene_3d import draw_3d
from llmi3d.processing.drawing.sheets import draw_answer, montage

__all__ = ["draw_3d", "draw_answer", "draw_birds_eye_view", "draw_boxes", "draw_pointing", "montage", "shrunk"]
