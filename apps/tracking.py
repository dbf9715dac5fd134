# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Tracking of boxes over the frames of a video, by Kalman filters and nearest neighbours of Stone Soup.

    tracker = BoxTracker()
    for time_s, boxes in frames:
        for box in tracker.update(boxes, time_s):
            print(box["track"], box["center_tracked"], box["velocity"])

Positions are in the camera frame, and the camera's own motion is unknown: a parked car moves when driven past. Needs
Stone Soup: pip install 'llmi3d[video]'.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np

# An image tells the direction of an object far better than its distance: standard deviations of a centre along and
# across its ray, as fractions of its distance.
ALONG, ACROSS = 0.1, 0.02
# Standard deviation of the speed of a new track, as a fraction of its distance per second: it suits both a mug on a
# desk and a car on a road.
SPEED = 0.5
# Variance of changes of speed after one second, (m/s)^2.
AGITATION = 1.0
# Largest distance of a box from its track, standard deviations.
GATE = 4.0
_START = datetime(2000, 1, 1, tzinfo=timezone.utc)


@dataclass(eq=False)
class _Object:
    """A tracked object: number, label, state of the filter, time when last seen, and past centres."""

    number: int
    label: str
    track: Any
    seen_s: float
    trail: deque = field(default_factory=deque)


class BoxTracker:
    """Assigns each box of each frame to an object.

    Only boxes with the same label can be one object. Objects are expected to move at constant speed; a missing one
    keeps its number if it reappears where it is expected. Memory does not grow with time.

    Args:
        max_gap_s: seconds after which a missing object is dropped.
        trail_s: seconds of the past in the trail of a box.

    Raises:
        ModuleNotFoundError: Stone Soup is not installed.
    """

    def __init__(self, max_gap_s: float = 1.0, trail_s: float = 2.0):
        try:
            from stonesoup.dataassociator.neighbour import GNNWith2DAssignment
            from stonesoup.hypothesiser.distance import DistanceHypothesiser
            from stonesoup.measures import Mahalanobis
            from stonesoup.models.transition.linear import CombinedLinearGaussianTransitionModel, ConstantVelocity
            from stonesoup.predictor.kalman import KalmanPredictor
            from stonesoup.updater.kalman import KalmanUpdater
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "tracking needs Stone Soup: pip install 'llmi3d[video]'.", name=error.name
            ) from error
        for name, value in (("max_gap_s", max_gap_s), ("trail_s", trail_s)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}: got {value}, want seconds, 0 or more.")
        self.max_gap_s, self.trail_s = max_gap_s, trail_s
        self.count = 0
        self._objects: list[_Object] = []
        self._time_s = -math.inf
        # The state is (x, speed along x, y, ..., z, ...).
        motion = CombinedLinearGaussianTransitionModel([ConstantVelocity(AGITATION)] * 3)
        self._updater = KalmanUpdater(None)
        measure = Mahalanobis()
        hypotheses = DistanceHypothesiser(KalmanPredictor(motion), self._updater, measure, missed_distance=GATE)
        self._associator = GNNWith2DAssignment(hypotheses)

    def update(self, boxes: list[dict], time_s: float) -> list[dict]:
        """Track the boxes of the next frame.

        Args:
            boxes: of the pipeline; not changed.
            time_s: time of the frame in seconds, later than the last.

        Returns:
            Copies of the boxes, in order, with `track` (number of the object, from 1), `center_tracked` (smoothed
            centre, metres), `velocity` (metres per second, relative to the camera) and `trail` (past
            `center_tracked`, the current one last).

        Raises:
            ValueError: the time is not later than the last.
        """
        if not self._time_s < time_s < math.inf:
            raise ValueError(f"time_s: got {time_s} after {self._time_s}, want increasing seconds.")
        self._time_s = time_s
        self._objects = [item for item in self._objects if time_s - item.seen_s <= self.max_gap_s]
        detections = [_detection(box, time_s) for box in boxes]
        owners: list[_Object | None] = [None] * len(boxes)
        for label in dict.fromkeys(str(box["label"]) for box in boxes):
            here = [i for i, box in enumerate(boxes) if str(box["label"]) == label]
            objects = {item.track: item for item in self._objects if item.label == label}
            place = {detections[i]: i for i in here}
            pairs = self._associator.associate(set(objects), set(place), detections[here[0]].timestamp)
            for track, hypothesis in pairs.items():
                if hypothesis:
                    owners[place[hypothesis.measurement]] = objects[track]
                    objects[track].track = _track(self._updater.update(hypothesis))
        answer = []
        for box, detection, owner in zip(boxes, detections, owners, strict=True):
            if owner is None:
                self.count += 1
                owner = _Object(self.count, str(box["label"]), _track(_first_state(detection)), time_s)
                self._objects.append(owner)
            owner.seen_s = time_s
            state = np.asarray(owner.track.state_vector, float).ravel()
            owner.trail.append((time_s, state[::2].tolist()))
            while owner.trail[0][0] < time_s - self.trail_s:
                owner.trail.popleft()
            known = {"track": owner.number, "center_tracked": state[::2].tolist(), "velocity": state[1::2].tolist()}
            answer.append({**box, **known, "trail": [center for _, center in owner.trail]})
        return answer


def _detection(box: dict, time_s: float):
    """Return the centre of a box as a measurement, more certain across its ray than along it."""
    from stonesoup.models.measurement.linear import LinearGaussian
    from stonesoup.types.detection import Detection

    center = np.asarray(box["center"], float)
    if center.shape != (3,) or not np.isfinite(center).all():
        raise ValueError(f"boxes: got a center of {box['center']!r}, want 3 finite numbers.")
    distance = max(np.linalg.norm(center), 1e-3)
    along = np.outer(center, center) / distance**2
    covariance = distance**2 * (ALONG**2 * along + ACROSS**2 * (np.eye(3) - along))
    model = LinearGaussian(ndim_state=6, mapping=(0, 2, 4), noise_covar=covariance)
    return Detection(center[:, None], timestamp=_START + timedelta(seconds=time_s), measurement_model=model)


def _first_state(detection):
    """Return the state after one box: its position, and an unknown speed within bounds."""
    from stonesoup.types.update import GaussianStateUpdate

    mean, covariance = np.zeros((6, 1)), np.zeros((6, 6))
    mean[::2] = detection.state_vector
    covariance[::2, ::2] = detection.measurement_model.noise_covar
    speeds = (1, 3, 5)
    covariance[speeds, speeds] = (SPEED * max(np.linalg.norm(detection.state_vector), 1e-3)) ** 2
    return GaussianStateUpdate(mean, covariance, hypothesis=None, timestamp=detection.timestamp)


def _track(state):
    """Return a track with only its newest state, which is all that a Kalman filter needs."""
    from stonesoup.types.track import Track

    return Track([state])
