# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""transformers' common tests of image processors, on LLMI3DImageProcessor."""

import unittest

from transformers_common_tests.test_image_processing_common import ImageProcessingTester, ImageProcessingTestMixin

from llmi3d import LLMI3DImageProcessor


class LLMI3DImageProcessingTester(ImageProcessingTester):
    def __init__(self, parent, **kwargs):
        kwargs.setdefault("size", {"height": 20, "width": 20})
        kwargs.setdefault("high_res_size", {"height": 60, "width": 60})
        kwargs.setdefault("image_mean", [0.5, 0.4, 0.3])
        kwargs.setdefault("image_std", [0.2, 0.3, 0.4])
        super().__init__(parent, **kwargs)

    def _get_image_processing_classes(self):
        # They are looked up by the name of the folder, which a model of transformers' own tree has.
        return {"torchvision": LLMI3DImageProcessor}


class LLMI3DImageProcessingTest(ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = LLMI3DImageProcessingTester
    test_cast_dtype = True
