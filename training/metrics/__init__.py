"""Metrics on metric, oriented 3D boxes."""

from .iou3d import box3d_iou, intersection_volume, volume

__all__ = ["box3d_iou", "intersection_volume", "volume"]
