# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""Which boxes of the frames of a video are of one object: Kalman filters and nearest neighbours of Stone Soup.

    tracker = BoxTracker()
    for time_s, boxes in frames:
        for box in tracker.update(boxes, time_s):
            print(box["track"], box["center_tracked"], box["velocity"])

Everything is in the frame of the camera, whose own motion is not known: a parked car that is driven past moves. Needs
Stone Soup: pip install 'llmi3d[video]'.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np

# One picture tells the direction of an object far better than its distance: standard deviations of a centre along its
# ray and across it, as parts of its distance.
ALONG, ACROSS = 0.1, 0.02
# Of the speed of a new track, as part of its distance a second: a mug on a desk and a car on a road are alike in it.
SPEED = 0.5
# Of changes of speed: metres per second after one second, squared.
AGITATION = 1.0
# No box belongs to a track from which it is more standard deviations away.
GATE = 4.0
_START = datetime(2000, 1, 1, tzinfo=timezone.utc)


@dataclass(eq=False)
class _Object:
    """What is being followed: its number, its label, the filter's state, when it was last seen, where it was."""

    number: int
    label: str
    track: Any
    seen_s: float
    trail: deque = field(default_factory=deque)


class BoxTracker:
    """Gives each box of each frame the number of the object that it is of.

    Only boxes of one label are taken for one object. Objects move as if at constant speed; one that is not found for
    a while keeps its number if it is found again where it should then be. What is kept does not grow with time.

    Args:
        max_gap_s: seconds after which an object that is not found is given up.
        trail_s: seconds of its past that a box brings along.

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
        """The boxes of the next frame, each with what is known of its object.

        Args:
            boxes: as the pipeline answers; not changed.
            time_s: of the frame, seconds, later than the last.

        Returns:
            Copies of the boxes, in their order, with `track` (its number, from 1), `center_tracked` (3 metres,
            smoothed over the past), `velocity` (3 metres a second, relative to the camera) and `trail` (its past
            `center_tracked`, this one last).

        Raises:
            ValueError: a time that is not later than the last.
        """
        if not self._time_s < time_s < math.inf:
            raise ValueError(f"time_s: got {time_s} after {self._time_s}, want seconds that grow.")
        self._time_s = time_s
        self._objects = [one for one in self._objects if time_s - one.seen_s <= self.max_gap_s]
        detections = [_detection(box, time_s) for box in boxes]
        owners: list[_Object | None] = [None] * len(boxes)
        for label in dict.fromkeys(str(box["label"]) for box in boxes):
            here = [i for i, box in enumerate(boxes) if str(box["label"]) == label]
            objects = {one.track: one for one in self._objects if one.label == label}
            place = {detections[i]: i for i in here}
            found = self._associator.associate(set(objects), set(place), detections[here[0]].timestamp)
            for track, hypothesis in found.items():
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
    """A box's centre as measured, surer across its ray than along it."""
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
    """What one box alone tells: where its object is, and of its speed only how large it may be."""
    from stonesoup.types.update import GaussianStateUpdate

    mean, covariance = np.zeros((6, 1)), np.zeros((6, 6))
    mean[::2] = detection.state_vector
    covariance[::2, ::2] = detection.measurement_model.noise_covar
    speeds = (1, 3, 5)
    covariance[speeds, speeds] = (SPEED * max(np.linalg.norm(detection.state_vector), 1e-3)) ** 2
    return GaussianStateUpdate(mean, covariance, hypothesis=None, timestamp=detection.timestamp)


def _track(state):
    """A track of its newest state alone: all that a Kalman filter needs."""
    from stonesoup.types.track import Track

    return Track([state])
