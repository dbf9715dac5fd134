# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Geometry Projection-Based 3D Reasoning: cameras, boxes, virtual depth and rotations, written once.

Everything here is pure torch, batched over leading dimensions `...` and differentiable. Half-precision input is
computed in float32, float64 stays float64.

Frames and units
    camera frame    x right, y down, z forward, metres
    image frame     pixels of the original image, (0, 0) at the top-left *corner* of its top-left pixel, so that a
                    resize is a pure scaling of K
    network frame   pixels of the high-resolution network input
    virtual camera  the one camera inside which the network works: focal length `virtual_focal_length` network pixels

A box is `center` [..., 3] (metres, camera frame), `size` [..., 3] = (length, height, width) along its own x, y, z axes
(metres) and `rotation` [..., 3, 3], box to camera.

          4 ---------- 5       local axes: x = length (right), y = height (down), z = width (away)
         /|           /|       corners 0-3 lie at z = -width/2 in the order (-l,-h), (+l,-h), (+l,+h), (-l,+h);
        0 ---------- 1 |       4-7 repeat them at z = +width/2 (Omni3D's order)
        | 7 ---------|-6
        |/           |/
        3 ---------- 2

>>> corners = box_corners(torch.zeros(3), torch.ones(3), torch.eye(3))
>>> corners[0].tolist(), corners[6].tolist()
([-0.5, -0.5, -0.5], [0.5, 0.5, 0.5])
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Corner signs along (length, height, width), and the 12 edges between corners.
CORNER_SIGNS = (
    (-1, -1, -1),
    (1, -1, -1),
    (1, 1, -1),
    (-1, 1, -1),
    (-1, -1, 1),
    (1, -1, 1),
    (1, 1, 1),
    (-1, 1, 1),
)
EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))

# Points nearer to the camera plane than this (metres) are clipped before they are projected.
NEAR = 0.01


def at_least_float32(x: Tensor) -> Tensor:
    """Return `x` in float32, or unchanged if it is float64: geometry is never computed in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _promote(*tensors: Tensor) -> tuple[Tensor, ...]:
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return tuple(tensor.to(dtype) for tensor in tensors)


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    """Compute a @ b elementwise: `@` would use half precision under autocast, and TF32 where that is enabled."""
    return (a[..., :, :, None] * b[..., None, :, :]).sum(-2)


# ---------------------------------------------------------------------------------------------------------- cameras


@dataclass(frozen=True)
class Camera:
    """The camera of one image and the mapping from its pixels to the network's.

    It accompanies the network inputs as plain Python numbers: it never enters the network, and casting a batch to half
    precision leaves it alone.

    Attributes:
        intrinsics: 3x3 K as nested tuples, image frame (after EXIF orientation), pixels.
        image_size: (width, height) of the image, pixels (after EXIF orientation).
        source: where K came from: `given`, `fov`, `exif` or `default`.
        scale: (x, y) network pixels per image pixel.
        offset: (x, y) of the image's top-left corner in the network frame, pixels.
    """

    intrinsics: tuple[tuple[float, float, float], ...]
    image_size: tuple[int, int]
    source: str = "given"
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)

    def intrinsics_tensor(self) -> Tensor:
        """Return K in the image frame: float64 [3, 3]."""
        return torch.tensor(self.intrinsics, dtype=torch.float64)

    def network_intrinsics(self) -> Tensor:
        """Return K in the network frame: float64 [3, 3]."""
        return transform_intrinsics(self.intrinsics_tensor(), self.scale, self.offset)

    def to_network(self, points_px: Tensor) -> Tensor:
        """Map image-frame pixels [..., 2] (or boxes [..., 4] xyxy) to network-frame pixels."""
        points_px, repeat = at_least_float32(points_px), points_px.shape[-1] // 2
        scale, offset = points_px.new_tensor(self.scale * repeat), points_px.new_tensor(self.offset * repeat)
        return points_px * scale + offset

    def to_image(self, points_px: Tensor) -> Tensor:
        """Map network-frame pixels [..., 2] (or boxes [..., 4] xyxy) back to image-frame pixels."""
        points_px = at_least_float32(points_px)
        return network_to_image(points_px, points_px.new_tensor(self.scale), points_px.new_tensor(self.offset))


def network_to_image(points_px: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """Map network-frame pixels [..., 2] (or boxes [..., 4] xyxy) of several cameras back to image-frame pixels.

    Args:
        scale, offset: [..., 2], as in `Camera` (broadcast against the points).
    """
    points_px, scale, offset = _promote(points_px, scale, offset)
    return ((points_px.unflatten(-1, (-1, 2)) - offset[..., None, :]) / scale[..., None, :]).flatten(-2)


def check_intrinsics(intrinsics: Tensor, image_size: tuple[int, int] | None = None) -> Tensor:
    """Check K and return it as float64 [3, 3].

    Args:
        intrinsics: [3, 3], pixels.
        image_size: (width, height) in pixels of the image that K belongs to. A principal point outside the image
            shows that K belongs to another size or orientation.

    Raises:
        ValueError: wrong shape, non-finite values, a focal length that is not positive, skew, a last row other than
            (0, 0, 1), or a principal point outside the image.
    """
    intrinsics = torch.as_tensor(intrinsics, dtype=torch.float64)
    if intrinsics.shape != (3, 3):
        raise ValueError(f"intrinsics: got shape {tuple(intrinsics.shape)}, want (3, 3).")
    if not torch.isfinite(intrinsics).all():
        raise ValueError(f"intrinsics: got non-finite values {intrinsics.tolist()}, want finite numbers.")
    fx, fy, skew = intrinsics[0, 0].item(), intrinsics[1, 1].item(), intrinsics[0, 1].item()
    cx, cy = intrinsics[0, 2].item(), intrinsics[1, 2].item()
    if fx <= 0 or fy <= 0:
        raise ValueError(f"intrinsics: got focal lengths fx={fx:g}, fy={fy:g}, want both above 0 pixels.")
    rest = (intrinsics[1, 0].item(), *intrinsics[2].tolist())
    if abs(skew) > 1e-6 * fx or any(abs(got - want) > 1e-6 for got, want in zip(rest, (0, 0, 0, 1), strict=True)):
        raise ValueError(
            f"intrinsics: got {intrinsics.tolist()}, want [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] (no skew; undistort "
            "and rectify the image first)."
        )
    if image_size is not None:
        width, height = image_size
        if not (0 < cx < width and 0 < cy < height):
            raise ValueError(
                f"intrinsics: principal point ({cx:g}, {cy:g}) lies outside the {width}x{height} image; K belongs to "
                "an image of another size or orientation. Scale K along with the image."
            )
    return intrinsics


def intrinsics_from_focal(fx: float, fy: float, cx: float, cy: float) -> Tensor:
    """Return K, float64 [3, 3], from focal lengths and principal point in pixels."""
    return torch.tensor([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]], dtype=torch.float64)


def intrinsics_from_fov(fov_deg: float, image_size: tuple[int, int]) -> Tensor:
    """Return K, float64 [3, 3], of a pinhole camera with square pixels and a centred principal point.

    Args:
        fov_deg: horizontal field of view, degrees, between 0 and 180 (both excluded).
        image_size: (width, height), pixels.

    Raises:
        ValueError: the field of view is out of range.
    """
    if not 0 < fov_deg < 180:
        raise ValueError(f"fov_deg: got {fov_deg}, want a horizontal field of view in degrees above 0 and below 180.")
    width, height = image_size
    focal = 0.5 * width / math.tan(math.radians(fov_deg) / 2)
    return intrinsics_from_focal(focal, focal, width / 2, height / 2)


def transform_intrinsics(intrinsics: Tensor, scale, offset) -> Tensor:
    """Return K after the pixel operation u' = scale * u + offset (resize, crop, pad or any chain of them).

    Args:
        intrinsics: [..., 3, 3].
        scale, offset: (x, y) pairs, or tensors [..., 2] (broadcast against the cameras).
    """
    intrinsics = at_least_float32(intrinsics)
    kind = {"dtype": intrinsics.dtype, "device": intrinsics.device}
    scale, offset = (torch.as_tensor(pair, **kind) for pair in (scale, offset))
    moved = torch.cat((torch.diag_embed(scale), offset[..., None]), -1)
    last = intrinsics.new_tensor([[0.0, 0.0, 1.0]]).expand(*moved.shape[:-2], 1, 3)
    return _matmul(torch.cat((moved, last), -2), intrinsics)


def orient_intrinsics(intrinsics: Tensor, image_size: tuple[int, int], orientation: int) -> Tensor:
    """Return K after an EXIF orientation is applied to the image. The camera frame turns with the image.

    Args:
        intrinsics: [3, 3], of the image as stored.
        image_size: (width, height) as stored, pixels.
        orientation: EXIF tag 274: 1 as stored, 2 mirrored, 3 turned by 180 degrees, 4 flipped, 5 transposed, 6 turned
            by 90 degrees clockwise to be upright, 7 transversed, 8 turned by 90 degrees counter-clockwise.

    Raises:
        ValueError: the orientation is not in 1-8.
    """
    if orientation not in range(1, 9):
        raise ValueError(f"orientation: got {orientation}, want an EXIF orientation from 1 to 8.")
    width, height = image_size
    fx, fy, cx, cy = (intrinsics[i].item() for i in ((0, 0), (1, 1), (0, 2), (1, 2)))
    if orientation in (5, 6, 7, 8):  # the axes swap: first transpose, then mirror as below
        fx, fy, cx, cy, width, height = fy, fx, cy, cx, height, width
    if orientation in (2, 3, 6, 7):
        cx = width - cx
    if orientation in (3, 4, 7, 8):
        cy = height - cy
    return intrinsics_from_focal(fx, fy, cx, cy).to(intrinsics)


# ------------------------------------------------------------------------------------------------------- projection


def back_project(points_2d_px: Tensor, depth: Tensor, intrinsics: Tensor) -> Tensor:
    """Back-project pixels with depth to camera-frame points.

    Args:
        points_2d_px: [..., 2], in K's frame.
        depth: [...], metres along z.
        intrinsics: [..., 3, 3].

    Returns:
        [..., 3], metres, camera frame.
    """
    points_2d_px, depth, intrinsics = _promote(points_2d_px, depth, intrinsics)
    x = (points_2d_px[..., 0] - intrinsics[..., 0, 2]) / intrinsics[..., 0, 0]
    y = (points_2d_px[..., 1] - intrinsics[..., 1, 2]) / intrinsics[..., 1, 1]
    return torch.stack((x, y, torch.ones_like(x)), -1) * depth[..., None]


def project(points_cam: Tensor, intrinsics: Tensor) -> Tensor:
    """Project camera-frame points [..., 3] in front of the camera to pixels [..., 2] in K's frame."""
    points_cam, intrinsics = _promote(points_cam, intrinsics)
    z = points_cam[..., 2]
    u = intrinsics[..., 0, 0] * points_cam[..., 0] / z + intrinsics[..., 0, 2]
    v = intrinsics[..., 1, 1] * points_cam[..., 1] / z + intrinsics[..., 1, 2]
    return torch.stack((u, v), -1)


def metric_to_virtual_depth(depth: Tensor, intrinsics: Tensor, virtual_focal_length: float) -> Tensor:
    """Convert depth in metres to virtual depth: where an object looks as large in the virtual camera.

    Cube R-CNN's virtual depth. The vertical focal length is used, so that depth from projected height is exact.

    Args:
        depth: [...], metres.
        intrinsics: [..., 3, 3], network frame.
        virtual_focal_length: network pixels.
    """
    depth, intrinsics = _promote(depth, intrinsics)
    return depth * virtual_focal_length / intrinsics[..., 1, 1]


def virtual_to_metric_depth(depth_virtual: Tensor, intrinsics: Tensor, virtual_focal_length: float) -> Tensor:
    """Invert `metric_to_virtual_depth`."""
    depth_virtual, intrinsics = _promote(depth_virtual, intrinsics)
    return depth_virtual * intrinsics[..., 1, 1] / virtual_focal_length


# -------------------------------------------------------------------------------------------------------- rotations


def rotation_6d_to_matrix(rotation_6d: Tensor) -> Tensor:
    """Return the rotation [..., 3, 3] whose first two columns two 3-vectors [..., 6] span (Zhou et al., CVPR 2019).

    The result is always a rotation: a vanishing first vector counts as the x axis, and a second one parallel to the
    first is replaced by the coordinate axis farthest from it.
    """
    rotation_6d = at_least_float32(rotation_6d)
    eps = 1e-6
    first, second = rotation_6d[..., :3], rotation_6d[..., 3:]
    axes = torch.eye(3, dtype=first.dtype, device=first.device)
    first = torch.where(_square_norm(first) > eps**2, first, axes[0])
    x = first * _square_norm(first).rsqrt()
    # Normalised first, so that "parallel" depends on the angle alone.
    second = torch.where(_square_norm(second) > eps**2, second, axes[1])
    second = second * _square_norm(second).rsqrt()
    y = second - (x * second).sum(-1, keepdim=True) * x
    fallback = axes[x.detach().abs().argmin(-1)]
    fallback = fallback - (x * fallback).sum(-1, keepdim=True) * x
    y = torch.where(_square_norm(y) > eps**2, y, fallback)
    y = y * _square_norm(y).rsqrt()
    # Once more: near-parallel input leaves a rounding residual along x.
    y = y - (x * y).sum(-1, keepdim=True) * x
    y = y * _square_norm(y).rsqrt()
    return torch.stack((x, y, torch.linalg.cross(x, y)), -1)


def _square_norm(x: Tensor) -> Tensor:
    return (x * x).sum(-1, keepdim=True)


def matrix_to_rotation_6d(rotation: Tensor) -> Tensor:
    """Return the first two columns of [..., 3, 3] as [..., 6]."""
    return at_least_float32(rotation)[..., :2].transpose(-1, -2).flatten(-2)


def yaw_to_matrix(yaw: Tensor) -> Tensor:
    """Return the rotation [..., 3, 3] about the camera's y axis by `yaw` [...] radians (KITTI's rotation_y)."""
    yaw = at_least_float32(yaw)
    cos, sin, zero, one = yaw.cos(), yaw.sin(), torch.zeros_like(yaw), torch.ones_like(yaw)
    return torch.stack((cos, zero, sin, zero, one, zero, -sin, zero, cos), -1).unflatten(-1, (3, 3))


def matrix_to_yaw(rotation: Tensor) -> Tensor:
    """Return the heading [...] of the length axis about the camera's y axis in radians; tilt is dropped."""
    rotation = at_least_float32(rotation)
    return torch.atan2(-rotation[..., 2, 0], rotation[..., 0, 0])


def quaternion_to_matrix(quaternion: Tensor) -> Tensor:
    """Convert quaternions [..., 4] (w, x, y, z), of any positive length, to rotations [..., 3, 3]."""
    quaternion = at_least_float32(quaternion)
    w, x, y, z = (quaternion / quaternion.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = (
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def matrix_to_quaternion(rotation: Tensor) -> Tensor:
    """Convert rotations [..., 3, 3] to unit quaternions [..., 4] (w, x, y, z) with w >= 0."""
    r = at_least_float32(rotation)
    xx, yy, zz = r[..., 0, 0], r[..., 1, 1], r[..., 2, 2]
    wx, wy, wz = r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]
    xy, xz, yz = r[..., 1, 0] + r[..., 0, 1], r[..., 0, 2] + r[..., 2, 0], r[..., 2, 1] + r[..., 1, 2]
    # Row i is the quaternion times 4 times its component i; the largest component is the best conditioned.
    rows = (
        *(1 + xx + yy + zz, wx, wy, wz),
        *(wx, 1 + xx - yy - zz, xy, xz),
        *(wy, xy, 1 - xx + yy - zz, yz),
        *(wz, xz, yz, 1 - xx - yy + zz),
    )
    candidates = torch.stack(rows, -1).unflatten(-1, (4, 4))
    best = candidates.diagonal(dim1=-2, dim2=-1).argmax(-1)
    quaternion = candidates.gather(-2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    quaternion = quaternion / quaternion.norm(dim=-1, keepdim=True)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def geodesic_angle(rotation_a: Tensor, rotation_b: Tensor) -> Tensor:
    """Return the angle [...] in radians between rotations; accurate, with finite gradients, from 0 to pi."""
    rotation_a, rotation_b = _promote(rotation_a, rotation_b)
    between = _matmul(rotation_a.transpose(-1, -2), rotation_b)
    sin = (between - between.transpose(-1, -2)).flatten(-2).norm(dim=-1) / math.sqrt(8)
    cos = (between.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    return torch.atan2(sin, cos)


def ray_rotation(points_cam: Tensor) -> Tensor:
    """Return the smallest rotation [..., 3, 3] from the optical axis to the ray through `points_cam` [..., 3]."""
    points_cam = at_least_float32(points_cam)
    x, y, z = (points_cam / points_cam.norm(dim=-1, keepdim=True)).unbind(-1)
    # Rodrigues about (-y, x, 0), with the sine and cosine of the ray itself: without an angle, smooth on the axis too.
    k = 1 / (1 + z)
    rows = (1 - k * x * x, -k * x * y, x, -k * x * y, 1 - k * y * y, y, -x, -y, z)
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def egocentric_to_allocentric(rotation: Tensor, center: Tensor) -> Tensor:
    """Convert rotations in the camera frame to rotations as seen along the ray to `center` (what pixels show).

    Args:
        rotation: [..., 3, 3], box to camera.
        center: [..., 3], any point on the ray, camera frame, in front of the camera.
    """
    rotation, center = _promote(rotation, center)
    return _matmul(ray_rotation(center).transpose(-1, -2), rotation)


def allocentric_to_egocentric(rotation: Tensor, center: Tensor) -> Tensor:
    """Invert `egocentric_to_allocentric`."""
    rotation, center = _promote(rotation, center)
    return _matmul(ray_rotation(center), rotation)


# ------------------------------------------------------------------------------------------------------------ boxes


def box_corners(center: Tensor, size: Tensor, rotation: Tensor) -> Tensor:
    """Return corners [..., 8, 3] in metres, camera frame, in the order drawn at the top of this file.

    Args:
        center: [..., 3], metres, camera frame.
        size: [..., 3] = (length, height, width), metres.
        rotation: [..., 3, 3], box to camera.
    """
    center, size, rotation = _promote(center, size, rotation)
    signs = size.new_tensor(CORNER_SIGNS)
    local = 0.5 * signs * size[..., None, :]
    return _matmul(local, rotation.transpose(-1, -2)) + center[..., None, :]


def corners_to_box(corners: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Invert `box_corners`: return (center [..., 3], size [..., 3], rotation [..., 3, 3]) of boxes with volume."""
    corners = at_least_float32(corners)
    signs = corners.new_tensor(CORNER_SIGNS)
    axes = _matmul(signs.transpose(0, 1), corners) / 4  # rows: the box's axes, as long as the box
    size = axes.norm(dim=-1)
    return corners.mean(-2), size, (axes / size[..., None]).transpose(-1, -2)


def project_box_2d(corners: Tensor, intrinsics: Tensor, near: float = NEAR) -> Tensor:
    """Return the amodal 2D box [..., 4] (x_min, y_min, x_max, y_max): the extent of the part beyond the near plane.

    It is not clipped to the image. A box wholly behind the near plane gives nan.

    Args:
        corners: [..., 8, 3], camera frame, metres.
        intrinsics: [..., 3, 3] (broadcast against the boxes).
        near: metres.
    """
    corners, intrinsics = _promote(corners, intrinsics)
    edges = torch.tensor(EDGES, device=corners.device)
    start, end = corners[..., edges[:, 0], :], corners[..., edges[:, 1], :]
    # An end behind the plane moves along its edge onto the plane; an edge wholly behind is left out.
    start_in, end_in = start[..., 2] >= near, end[..., 2] >= near
    run = end[..., 2] - start[..., 2]
    crossing = (near - start[..., 2]) / torch.where(start_in == end_in, torch.ones_like(run), run)
    on_plane = start + crossing[..., None] * (end - start)
    points = torch.cat(
        (torch.where(start_in[..., None], start, on_plane), torch.where(end_in[..., None], end, on_plane)), -2
    )
    visible = torch.cat((start_in | end_in,) * 2, -1)[..., None]
    points = torch.where(visible, points, points.new_tensor([0.0, 0.0, 1.0]))
    pixels = project(points, intrinsics[..., None, :, :])
    inf = pixels.new_tensor(math.inf)
    low, high = torch.where(visible, pixels, inf).amin(-2), torch.where(visible, pixels, -inf).amax(-2)
    box = torch.cat((low, high), -1)
    return torch.where(box.isinf().any(-1, keepdim=True), torch.full_like(box, math.nan), box)


def box_2d_iou(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """Return the IoU [...] of 2D boxes [..., 4] xyxy: nan where a box is nan, 0 where both have no area."""
    top_left = torch.maximum(boxes_a[..., :2], boxes_b[..., :2])
    bottom_right = torch.minimum(boxes_a[..., 2:], boxes_b[..., 2:])
    shared = (bottom_right - top_left).clamp(min=0).prod(-1)
    areas = (boxes_a[..., 2:] - boxes_a[..., :2]).prod(-1) + (boxes_b[..., 2:] - boxes_b[..., :2]).prod(-1)
    return shared / (areas - shared).clamp(min=1e-12)


@dataclass(frozen=True)
class EncodedBoxes:
    """Boxes in network terms, for targets and predictions alike. `...` is any leading shape.

    Attributes:
        center_2d_px: [..., 2] projected 3D centre, network frame.
        box_2d_px: [..., 4] amodal xyxy, network frame.
        depth_virtual: [...] of the centre, virtual metres.
        size: [..., 3] = (length, height, width), metres.
        rotation_allocentric: [..., 3, 3].
    """

    center_2d_px: Tensor
    box_2d_px: Tensor
    depth_virtual: Tensor
    size: Tensor
    rotation_allocentric: Tensor


def encode_boxes(
    center: Tensor, size: Tensor, rotation: Tensor, intrinsics: Tensor, virtual_focal_length: float
) -> EncodedBoxes:
    """Encode metric boxes in network terms.

    Args:
        center, size, rotation: [..., 3], [..., 3], [..., 3, 3], camera frame, metres. Centres lie in front of it.
        intrinsics: [..., 3, 3], network frame (broadcast against the boxes).
        virtual_focal_length: network pixels.

    Raises:
        ValueError: a centre lies at or behind the camera plane.
    """
    if not (center[..., 2] > 0).all():
        raise ValueError(f"center: got a depth of {center[..., 2].min().item():g} m, want every centre at z > 0.")
    corners = box_corners(center, size, rotation)
    return EncodedBoxes(
        center_2d_px=project(center, intrinsics),
        box_2d_px=project_box_2d(corners, intrinsics),
        depth_virtual=metric_to_virtual_depth(center[..., 2], intrinsics, virtual_focal_length),
        size=at_least_float32(size),
        rotation_allocentric=egocentric_to_allocentric(rotation, center),
    )


def decode_boxes(
    center_2d_px: Tensor,
    depth_virtual: Tensor,
    size: Tensor,
    rotation_allocentric: Tensor,
    intrinsics: Tensor,
    virtual_focal_length: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Decode network terms into metric boxes: the only place where the camera meets the network's outputs.

    Args:
        center_2d_px, depth_virtual, size, rotation_allocentric: as in `EncodedBoxes`.
        intrinsics: [..., 3, 3], network frame (broadcast against the boxes).
        virtual_focal_length: network pixels.

    Returns:
        (center [..., 3], size [..., 3], rotation [..., 3, 3]), camera frame, metres.
    """
    depth = virtual_to_metric_depth(depth_virtual, intrinsics, virtual_focal_length)
    center = back_project(center_2d_px, depth, intrinsics)
    # The ray is taken at depth 1: the gradient of the rotation must not reach the depth.
    ray = back_project(center_2d_px, torch.ones_like(depth), intrinsics)
    return center, at_least_float32(size), allocentric_to_egocentric(rotation_allocentric, ray)
