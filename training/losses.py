# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""The 3D criterion: disentangled corner losses, uncertainty-weighted depth, 2D box, depth map and confidence.

Cube R-CNN fixes the disentanglement (each group of outputs is judged with the others taken from the truth) and the
chamfer distance for symmetric objects; MonoDETR the Laplace uncertainty of depth and the focal loss of the depth map.
The confidence is regressed to the achieved 3D IoU. Unlike theirs, lengths are divided by the true box's diagonal, so
that a cup and a lorry weigh the same, as they do in IoU.

Shapes: B samples, Q query tokens of a sample (padded), K boxes of a batch, M objects of an image (padded), D bins.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss

from llmi3d.box_heads_llmi3d import Box3DHeadOutput
from llmi3d.configuration_llmi3d import LLMI3DConfig
from llmi3d.evaluation.iou3d import box3d_iou
from llmi3d.feature_mining_llmi3d import depth_bin_edges
from llmi3d.pointing_llmi3d import place_centers
from llmi3d.processing.geometry_llmi3d import (
    allocentric_to_egocentric,
    back_project,
    box_corners,
    decode_boxes,
    encode_boxes,
    rotation_6d_to_matrix,
    virtual_to_metric_depth,
)


@dataclass
class Box3DLossWeights:
    """Weight of each component of the 3D loss.

    Attributes:
        center, depth, size, rotation: disentangled corner losses.
        joint: corner loss with everything predicted.
        depth_uncertainty: Laplace likelihood of each depth source.
        box_2d: L1 and GIoU of the amodal 2D box.
        depth_map: focal loss of the object-level depth map.
        score: cross-entropy of the score against the achieved 3D IoU.
        pointing: negative log of the probability that falls on the places that show the object.
    """

    center: float = 1.0
    depth: float = 1.0
    size: float = 1.0
    rotation: float = 1.0
    joint: float = 1.0
    depth_uncertainty: float = 1.0
    box_2d: float = 1.0
    depth_map: float = 1.0
    score: float = 1.0
    pointing: float = 1.0


def paint_depth_bins(
    boxes_2d_px: Tensor, depths_virtual: Tensor, mask: Tensor, map_size: tuple[int, int], config: LLMI3DConfig
) -> Tensor:
    """Paint objects' 2D boxes with the bin of their virtual depth, near over far; the rest is background.

    A box too small to hold the middle of a cell paints the cell in which its own middle lies.

    Args:
        boxes_2d_px: [B, M, 4], xyxy, network pixels.
        depths_virtual: [B, M], virtual metres.
        mask: bool [B, M], False where M is padding.
        map_size: (H, W) of the depth map, which covers the network frame or its middle.

    Returns:
        Bin indices [B, H, W]; `config.num_depth_bins` is background.
    """
    cell = 4 * 2**config.depth_map_stage
    inside = places_inside(boxes_2d_px, map_size, cell, config.high_res_image_size) & mask[..., None, None]
    nearest = torch.where(inside, depths_virtual[..., None, None], torch.inf).amin(1)
    bins = torch.bucketize(nearest.log(), depth_bin_edges(config, mask.device)) - 1
    return torch.where(nearest.isinf(), config.num_depth_bins, bins.clamp(0, config.num_depth_bins - 1))


def places_inside(boxes_2d_px: Tensor, size: tuple[int, int], cell_px: float, image_size: int) -> Tensor:
    """Return the places whose middle lies in a 2D box; a box that holds none gets the place of its own middle.

    Args:
        boxes_2d_px: [B, M, 4], xyxy, network pixels.
        size: (H, W), rows and columns of places, which cover the network frame or its middle.
        cell_px: side of a place, network pixels.
        image_size: side of the network frame, pixels.

    Returns:
        bool [B, M, H, W].
    """
    centers = place_centers(*size, cell_px, image_size, boxes_2d_px.device)
    x, y = centers[0, :, 0], centers[:, 0, 1, None]
    left, top, right, bottom = (side[..., None, None] for side in boxes_2d_px.unbind(-1))
    inside = (x > left) & (x < right) & (y > top) & (y < bottom)
    middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
    half = cell_px / 2
    return inside | ((middle_x >= x - half) & (middle_x < x + half) & (middle_y >= y - half) & (middle_y < y + half))


def pointing_loss(log_probs: Tensor, places: Tensor) -> Tensor:
    """Return the negative log of the probability on the places that show an object, [K]; 0 where no place does.

    Args:
        log_probs: [K, H, W].
        places: bool [K, H, W].
    """
    known = places.flatten(1).any(1)
    allowed = log_probs.masked_fill(~places & known[:, None, None], float("-inf"))
    return torch.where(known, -allowed.flatten(1).logsumexp(1), 0.0)


def depth_map_loss(depth_logits: Tensor, bins: Tensor, gamma: float = 2.0) -> Tensor:
    """Return the focal cross-entropy of the depth map for each image, [B]; objects and background weigh the same.

    Args:
        depth_logits: [B, D + 1, H, W].
        bins: [B, H, W], from `paint_depth_bins`.
    """
    cross_entropy = F.cross_entropy(depth_logits.float(), bins, reduction="none")
    focal = (1 - (-cross_entropy).exp()) ** gamma * cross_entropy
    is_object = bins < depth_logits.shape[1] - 1

    def mean_over(cells: Tensor) -> Tensor:
        return (focal * cells).sum((1, 2)) / cells.sum((1, 2)).clamp(min=1)

    return mean_over(is_object) + mean_over(~is_object)


def corner_distance(corners: Tensor, true_corners: Tensor, symmetric: Tensor) -> Tensor:
    """Return the mean L1 distance of corresponding corners, or the chamfer distance of a symmetric object.

    Args:
        corners, true_corners: [K, 8, 3], metres.
        symmetric: bool [K].

    Returns:
        [K], log(1 + distance in true diagonals): near the truth it is the distance, and far from it, where IoU is 0
        whatever the distance, no single far box outweighs all others.
    """
    diagonal = (true_corners[:, 0] - true_corners[:, 6]).norm(dim=-1)
    direct = (corners - true_corners).abs().sum(-1).mean(-1)
    pairwise = (corners[:, :, None] - true_corners[:, None]).abs().sum(-1)
    chamfer = 0.5 * (pairwise.amin(1).mean(-1) + pairwise.amin(2).mean(-1))
    return (torch.where(symmetric, chamfer, direct) / diagonal).log1p()


@dataclass
class Box3DTargets:
    """Targets of a batch.

    Attributes:
        mask: bool [B, Q], False where Q is padding.
        center, size: [B, Q, 3], metres, camera frame.
        rotation: [B, Q, 3, 3], box to camera.
        symmetric: bool [B, Q], objects whose rotation is only defined up to a symmetry.
        intrinsics: [B, 3, 3], network frame.
        painted_boxes_2d_px: [B, M, 4], network pixels, of all objects of each image.
        painted_depths_virtual: [B, M].
        painted_mask: bool [B, M].
        pointing_places: bool [B, Q, H, W], the places that show each object, where they are known; a row of False has
            no loss. By default the places inside the projected box.
    """

    mask: Tensor
    center: Tensor
    size: Tensor
    rotation: Tensor
    symmetric: Tensor
    intrinsics: Tensor
    painted_boxes_2d_px: Tensor
    painted_depths_virtual: Tensor
    painted_mask: Tensor
    pointing_places: Tensor | None = None


@dataclass
class Box3DLoss:
    """Attributes: `total` scalar; `components` detached weighted scalars by name; `iou` [K], achieved 3D IoU."""

    total: Tensor
    components: dict[str, Tensor] = field(default_factory=dict)
    iou: Tensor | None = None


class Box3DCriterion(nn.Module):
    """Compare raw network outputs with the truth, box by box.

    Losses are sums over boxes (for the depth map, over images) divided by counts that the caller gives, so that the
    batches of an accumulated or distributed step add up to the loss of the whole.
    """

    def __init__(self, config: LLMI3DConfig, weights: Box3DLossWeights | None = None):
        super().__init__()
        self.config = config
        self.weights = weights or Box3DLossWeights()

    def forward(
        self,
        boxes: Box3DHeadOutput,
        depth_logits: Tensor | None,
        targets: Box3DTargets,
        num_boxes: Tensor | float | None = None,
        num_images: Tensor | float | None = None,
    ) -> Box3DLoss:
        """
        Args:
            boxes: raw outputs of the 3D heads.
            depth_logits: [B, D + 1, H, W], or None without depth branch.
            targets: the truth.
            num_boxes, num_images: divisors of the sums; this batch's counts by default.

        Raises:
            ValueError: a sample whose numbers of query tokens and of boxes differ.
        """
        predicted, wanted = boxes.mask.sum(-1), targets.mask.sum(-1)
        if not torch.equal(predicted, wanted):
            raise ValueError(
                f"targets: got {wanted.tolist()} boxes for {predicted.tolist()} query tokens of the samples."
            )
        num_boxes = wanted.sum().clamp(min=1) if num_boxes is None else num_boxes
        num_images = len(wanted) if num_images is None else num_images

        iou = None
        if wanted.sum():
            terms, iou = self._box_terms(boxes, targets)
            losses = {name: term.sum() / num_boxes for name, term in terms.items()}
        else:  # keeps the heads in the graph, so that no process waits for their gradients
            outputs = (value for value in boxes.values() if value.is_floating_point())
            losses = {"joint": sum(value.sum() for value in outputs) * 0.0}
        if depth_logits is not None:
            bins = paint_depth_bins(
                targets.painted_boxes_2d_px,
                targets.painted_depths_virtual,
                targets.painted_mask,
                depth_logits.shape[-2:],
                self.config,
            )
            losses["depth_map"] = depth_map_loss(depth_logits, bins).sum() / num_images
        losses = {name: loss * getattr(self.weights, name) for name, loss in losses.items()}
        return Box3DLoss(sum(losses.values()), {name: loss.detach() for name, loss in losses.items()}, iou)

    def _box_terms(self, boxes: Box3DHeadOutput, targets: Box3DTargets) -> tuple[dict[str, Tensor], Tensor]:
        """Return each component for each box, [K], and the achieved IoU, [K]."""
        focal_length, canvas = self.config.virtual_focal_length, self.config.high_res_image_size
        queries = targets.mask.shape[1]
        k = targets.intrinsics[:, None].expand(-1, queries, -1, -1)[targets.mask]
        center, size, rotation = (getattr(targets, name)[targets.mask] for name in ("center", "size", "rotation"))
        truth = encode_boxes(center, size, rotation, k, focal_length)
        true_corners = box_corners(center, size, rotation)
        symmetric = targets.symmetric[targets.mask]
        predicted = {name: value[boxes.mask] for name, value in boxes.items()}
        allocentric = rotation_6d_to_matrix(predicted["rotation_6d"])

        def judge(corners: Tensor, is_symmetric: Tensor | None = None) -> Tensor:
            none = torch.zeros_like(symmetric)
            return corner_distance(corners, true_corners, none if is_symmetric is None else is_symmetric)

        depth = virtual_to_metric_depth(predicted["depth_virtual"], k, focal_length)
        moved = back_project(predicted["center_2d_px"], center[:, 2], k)
        deepened = back_project(truth.center_2d_px, depth, k)
        turned = allocentric_to_egocentric(allocentric, center)
        joint = decode_boxes(
            predicted["center_2d_px"], predicted["depth_virtual"], predicted["size"], allocentric, k, focal_length
        )

        depth_error = (predicted["log_depths"] - truth.depth_virtual.log()[:, None]).abs()
        log_scales = predicted["depth_log_scales"]
        used = predicted["depth_weights"] > 0
        likelihood = depth_error * (-log_scales).exp() + log_scales

        # Pixels cannot show the parts of a box that lie far outside the image.
        true_2d = truth.box_2d_px.clamp(-0.5 * canvas, 1.5 * canvas) / canvas
        box_2d = predicted["box_2d_px"] / canvas
        giou = generalized_box_iou_loss(box_2d, true_2d, reduction="none")

        # In double precision: early boxes can be a hair wide a hundred kilometres away.
        with torch.no_grad():
            precise = box_corners(*(value.double() for value in joint))
            iou = box3d_iou(precise, true_corners, paired=True).to(size.dtype)
        terms = {
            "center": judge(box_corners(moved, size, rotation)),
            "depth": judge(box_corners(deepened, size, rotation)),
            "size": judge(box_corners(center, predicted["size"], rotation)),
            "rotation": judge(box_corners(center, size, turned), symmetric),
            "joint": judge(box_corners(*joint), symmetric),
            "depth_uncertainty": torch.where(used, likelihood, 0.0).sum(-1) / used.sum(-1),
            "box_2d": (box_2d - true_2d).abs().sum(-1) + giou,
            "score": F.binary_cross_entropy_with_logits(predicted["score_logits"], iou, reduction="none"),
        }
        if "pointing_log_probs" in predicted:
            places = targets.pointing_places
            size = predicted["pointing_log_probs"].shape[-2:]
            if places is None:
                visible = truth.box_2d_px.clamp(0, canvas)
                cell = self.config.place_px
                places = places_inside(visible[:, None], size, cell, canvas)[:, 0]
            else:
                places = places[targets.mask]
            terms["pointing"] = pointing_loss(predicted["pointing_log_probs"], places)
        return terms, iou
