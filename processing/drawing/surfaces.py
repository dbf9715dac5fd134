# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Surfaces that take the same strokes: a Pillow image, and an SVG document.

Coordinates are image-frame pixels: (0, 0) is the top-left corner of the top-left pixel. Colours are RGB or RGBA.
"""

import base64
import html
import io
import math
import os
from itertools import pairwise

from PIL import Image, ImageDraw, ImageFont


def load_font(size: int) -> ImageFont.FreeTypeFont:
    """Load the font of drawn text, `size` pixels high: Pillow's own (ASCII only), or the file in LLMI3D_FONT.

    Raises:
        ValueError: LLMI3D_FONT names a file that Pillow cannot read.
    """
    path = os.environ.get("LLMI3D_FONT")
    if not path:
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(path, size)
    except OSError as error:
        raise ValueError(f"LLMI3D_FONT: got {path!r}, want a TrueType or OpenType file ({error}).") from error


class Surface:
    """Base of both surfaces: font size and line width that suit the image, and dashes.

    Args:
        image: RGB background. It is not changed.
    """

    def __init__(self, image: Image.Image):
        self.size = width, height = image.size
        self.font = load_font(max(11, round(0.019 * math.sqrt(width * height))))
        self.line_width = max(1.25, 0.0024 * math.sqrt(width * height))

    @staticmethod
    def _strokes(points, dash: float) -> list:
        """Return (start, end) of every stroke along a path."""
        strokes = []
        for start, end in pairwise(points):
            count = max(1, round(math.dist(start, end) / dash)) if dash else 1
            for i in range(count):
                # Each dash is centred in its share, so that both ends of an edge look alike.
                shares = ((i + 0.25) / count, (i + 0.75) / count) if dash else (0.0, 1.0)
                strokes.append([[a + t * (b - a) for a, b in zip(start, end, strict=True)] for t in shares])
        return strokes

    def path(self, points, color, width: float, dash: float = 0.0):
        """Draw straight strokes with round ends; `dash` is the distance from one dash to the next in pixels."""
        raise NotImplementedError

    def polygon(self, points, color):
        """Fill a polygon; fewer than three corners draw nothing."""
        raise NotImplementedError

    def plate(self, x_min, y_min, x_max, y_max, color):
        """Fill a rectangle with round corners."""
        raise NotImplementedError

    def text(self, position, text: str, color, anchor: str):
        """Write one line of text over everything else; `anchor` as in Pillow: l, m or r, then a, m or b."""
        raise NotImplementedError

    def paste(self, drawing, position: tuple[int, int]):
        """Place a finished drawing of the same kind at (left, top)."""
        raise NotImplementedError

    def finish(self):
        """Return the drawing."""
        raise NotImplementedError


class RasterSurface(Surface):
    """Image drawn `factor` times larger and averaged down at the end, which smooths every edge.

    Enlarging by repetition and averaging back returns untouched pixels exactly. Text is drawn last,
    at its final size, which is sharper.
    """

    def __init__(self, image: Image.Image, factor: int | None = None):
        super().__init__(image)
        width, height = image.size
        # Large images need less: their lines are wider, and memory grows with the square.
        self.factor = factor or (4 if max(image.size) <= 1600 else 2)
        self.image = image.resize((width * self.factor, height * self.factor), Image.Resampling.NEAREST)
        self.draw = ImageDraw.Draw(self.image, "RGBA")  # "RGBA" on an RGB image blends instead of overwriting
        self.texts, self.pasted = [], []

    def _scaled(self, point) -> tuple[float, float]:
        return point[0] * self.factor - 0.5, point[1] * self.factor - 0.5

    def path(self, points, color, width: float, dash: float = 0.0):
        radius = width * self.factor / 2
        for stroke in self._strokes(points, dash):
            ends = [self._scaled(point) for point in stroke]
            self.draw.line(ends, fill=color, width=max(1, round(2 * radius)))
            for x, y in ends if radius > 2 else ():
                self.draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)

    def polygon(self, points, color):
        if len(points) > 2:
            self.draw.polygon([self._scaled(point) for point in points], fill=color)

    def plate(self, x_min, y_min, x_max, y_max, color):
        ends = [self._scaled((x_min, y_min)), self._scaled((x_max, y_max))]
        self.draw.rounded_rectangle(ends, radius=self.factor * (y_max - y_min) / 5, fill=color)

    def text(self, position, text: str, color, anchor: str):
        self.texts.append((position, text, color, anchor))

    def paste(self, drawing: Image.Image, position: tuple[int, int]):
        self.pasted.append((drawing, position))

    def finish(self) -> Image.Image:
        image = self.image.reduce(self.factor)
        for drawing, position in self.pasted:
            image.paste(drawing, position)
        draw = ImageDraw.Draw(image)
        for position, text, color, anchor in self.texts:
            draw.text(position, text, font=self.font, fill=color, anchor=anchor)
        return image


class SvgSurface(Surface):
    """Self-contained SVG document with the image in it: lines and text stay sharp at any size."""

    def __init__(self, image: Image.Image):
        super().__init__(image)
        colors = image.getcolors(1)
        if colors:
            self.elements = [f'<rect width="100%" height="100%"{_paint("fill", colors[0][1])}/>']
        else:
            data = io.BytesIO()
            image.save(data, "JPEG", quality=92)
            href = base64.b64encode(data.getvalue()).decode()
            self.elements = [f'<image width="100%" height="100%" href="data:image/jpeg;base64,{href}"/>']
        self.texts = []

    def path(self, points, color, width: float, dash: float = 0.0):
        if strokes := self._strokes(points, dash):
            steps = "".join(f"M{_numbers(start)}L{_numbers(end)}" for start, end in strokes)
            # Joined strokes are one line: overlapping ends of a translucent colour would show.
            if not dash:
                steps = "M" + "L".join(map(_numbers, points))
            stroke = f'fill="none"{_paint("stroke", color)} stroke-width="{width:.2f}"'
            self.elements.append(f'<path d="{steps}" {stroke} stroke-linecap="round" stroke-linejoin="round"/>')

    def polygon(self, points, color):
        if len(points) > 2:
            self.elements.append(f'<polygon points="{" ".join(map(_numbers, points))}"{_paint("fill", color)}/>')

    def plate(self, x_min, y_min, x_max, y_max, color):
        sizes = f'x="{x_min:.2f}" y="{y_min:.2f}" width="{x_max - x_min:.2f}" height="{y_max - y_min:.2f}"'
        self.elements.append(f'<rect {sizes} rx="{(y_max - y_min) / 5:.2f}"{_paint("fill", color)}/>')

    def text(self, position, text: str, color, anchor: str):
        text = "".join(letter for letter in text if letter.isprintable())  # XML forbids most others
        if not text:
            return
        across = {"l": "start", "m": "middle", "r": "end"}[anchor[0]]
        down = {"a": 0.8, "m": 0.35, "b": -0.2}[anchor[1]] * self.font.size  # from the baseline
        # As wide as Pillow's text in any font, so that plates fit.
        place = f'x="{position[0]:.2f}" y="{position[1] + down:.2f}" textLength="{self.font.getlength(text):.2f}"'
        self.texts.append(
            f'<text {place} lengthAdjust="spacingAndGlyphs" text-anchor="{across}" font-size="{self.font.size:g}"'
            f"{_paint('fill', color)}>{html.escape(text)}</text>"
        )

    def paste(self, drawing: str, position: tuple[int, int]):
        self.elements.append(drawing.replace("<svg ", f'<svg x="{position[0]}" y="{position[1]}" ', 1))

    def finish(self) -> str:
        width, height = self.size
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" font-family="sans-serif" xml:space="preserve">\n'
            + "\n".join([*self.elements, *self.texts, "</svg>\n"])
        )


def surface_on(image: Image.Image, svg: bool = False, factor: int | None = None) -> Surface:
    """Return a surface with `image` as its background; `factor` as in `RasterSurface`."""
    return SvgSurface(image) if svg else RasterSurface(image, factor)


def _numbers(point) -> str:
    return f"{point[0]:.2f},{point[1]:.2f}"


def _paint(kind: str, color) -> str:
    """Return the attributes that paint a stroke or a fill."""
    opacity = f' {kind}-opacity="{color[3] / 255:.3f}"' if len(color) == 4 else ""
    return f' {kind}="#{color[0]:02x}{color[1]:02x}{color[2]:02x}"{opacity}'
