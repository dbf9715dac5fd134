# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""transformers' common tests of processors, on LLMI3DProcessor."""

import unittest
from unittest import mock

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers_common_tests.test_processing_common import ProcessorTesterMixin

from llmi3d import LLMI3DImageProcessor, LLMI3DProcessor


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token a byte and LLMI3D's special tokens: nothing to download."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>", "<|box_3d|>"]})
    return tokenizer


class LLMI3DProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = LLMI3DProcessor

    @classmethod
    def setUpClass(cls):
        # Registered to carry its code, a processor notes the code's address when it is saved and drops it when it is
        # loaded; in transformers' own tree no class is registered, and both must be equal.
        patch = mock.patch.object(LLMI3DProcessor, "_auto_class", None)
        patch.start()
        cls.addClassCleanup(patch.stop)
        super().setUpClass()

    @classmethod
    def _setup_image_processor(cls):
        # 2 x 2 visual tokens, as the mixin's texts and lengths are made for few.
        return LLMI3DImageProcessor(size={"height": 28, "width": 28}, high_res_size={"height": 56, "width": 56})

    @classmethod
    def _setup_tokenizer(cls):
        return byte_tokenizer()
