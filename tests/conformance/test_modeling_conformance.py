# Copyright 2026 The LLMI3D team. Licensed under the Apache License, Version 2.0.
"""transformers' common tests of models, and our tests of generation, on LLMI3D with CLIP, SigLIP and Qwen-VL."""

import unittest
from unittest import mock

import torch
from generation_tester import GenerationTesterMixin
from transformers import PreTrainedModel
from transformers.testing_utils import torch_device
from transformers_common_tests import test_modeling_common
from transformers_common_tests.test_configuration_common import ConfigTester
from transformers_common_tests.test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor

from llmi3d import LLMI3DConfig, LLMI3DForConditionalGeneration, LLMI3DModel, modeling_llmi3d
from llmi3d.box_heads_llmi3d import gather_queries

ROPE = {"rope_type": "default", "rope_theta": 10000.0}
# What the encoders of Qwen-VL and their language models have of their own.
QWEN_VL = {
    "qwen2_5_vl_vision": (
        {"window_size": 8, "fullatt_block_indexes": [1]},
        {"model_type": "qwen2_5_vl_text", "rope_parameters": {**ROPE, "mrope_section": [2, 1, 1]}},
    ),
    "qwen3_vl_vision": (
        {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
        {
            **{"model_type": "qwen3_vl_text", "head_dim": 8},
            "rope_parameters": {**ROPE, "mrope_section": [2, 1, 1], "mrope_interleaved": True},
        },
    ),
}


class LLMI3DTester:
    """A tiny two-branch model: 2 x 2 visual tokens, 8 x 8 cells in a token's window, every part switched on."""

    def __init__(self, parent, vision_model_type):
        self.parent = parent
        self.is_training = True
        self.batch_size = 3
        self.text_config = {
            "model_type": "llama",
            "vocab_size": 99,
            "hidden_size": 32,
            "intermediate_size": 37,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "pad_token_id": 1,
            "bos_token_id": 2,
            "eos_token_id": 3,
        }
        self.vision_config = {
            "model_type": vision_model_type,
            "hidden_size": 32,
            "intermediate_size": 37,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 8,
            "patch_size": 4,
        }
        if vision_model_type == "clip_vision_model":
            self.vision_config["projection_dim"] = 32
        elif vision_model_type in QWEN_VL:
            self._make_qwen(vision_model_type)
        self.high_res_vision_config = {
            "model_type": "timm_wrapper",
            "architecture": "convnext_atto",
            "model_args": {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]},
            "do_pooling": False,
        }
        self.image_size, self.high_res_image_size = 8, 32
        # Outside the ids that common tests draw (below 5) and cut off (the last 15).
        self.image_token_id, self.box_3d_token_id = 5, 6
        self.num_image_tokens = 4
        self.num_text_tokens = 7
        self.seq_length = self.num_image_tokens + self.num_text_tokens
        # The common tests read the text model's sizes here.
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "pad_token_id"):
            setattr(self, name, self.text_config[name])

    def _make_qwen(self, vision_model_type):
        sizes = {key: self.vision_config[key] for key in ("model_type", "hidden_size", "intermediate_size")}
        self.vision_config = {
            **{**sizes, "depth": 2, "num_heads": 4, "patch_size": 2, "spatial_merge_size": 2, "out_hidden_size": 32},
            **QWEN_VL[vision_model_type][0],
        }
        self.text_config |= QWEN_VL[vision_model_type][1]

    def get_config(self):
        return LLMI3DConfig(
            image_size=self.image_size,
            text_config=self.text_config,
            vision_config=self.vision_config,
            high_res_vision_config=self.high_res_vision_config,
            high_res_image_size=self.high_res_image_size,
            vision_feature_select_strategy="default" if "clip" in self.vision_config["model_type"] else "full",
            depth_predictor_dim=16,
            depth_embedding_dim=8,
            num_depth_bins=10,
            box_head_dim=32,
            image_token_id=self.image_token_id,
            box_3d_token_id=self.box_3d_token_id,
        )

    def prepare_config_and_inputs_for_common(self):
        text = ids_tensor([self.batch_size, self.num_text_tokens], self.vocab_size - 7) + 7
        text[:, 2] = self.box_3d_token_id
        text[0, 4] = self.box_3d_token_id  # one sample asks for two boxes
        images = torch.full((self.batch_size, self.num_image_tokens), self.image_token_id, device=torch_device)
        input_ids = torch.cat((text[:, :1], images, text[:, 1:]), 1)
        low, high = self.image_size, self.high_res_image_size
        return self.get_config(), {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
            "pixel_values": floats_tensor([self.batch_size, 3, low, low]),
            "high_res_pixel_values": floats_tensor([self.batch_size, 3, high, high]),
        }


class LLMI3DModelTest(ModelTesterMixin, GenerationTesterMixin, unittest.TestCase):
    all_model_classes = (LLMI3DModel, LLMI3DForConditionalGeneration)
    _is_composite = True
    # The loss of the 3D heads is no part of the model: see `test_all_parameters_get_gradients`.
    test_all_params_have_gradient = False

    vision_model_type = "clip_vision_model"

    def setUp(self):
        self.model_tester = LLMI3DTester(self, self.vision_model_type)
        self.config_tester = ConfigTester(self, config_class=LLMI3DConfig, has_text_modality=False)
        # It writes the names of all kinds of norms into a configuration, which LLMI3DConfig refuses to load again. The
        # norms are in the language model and the ViT.
        loosen_norms = test_modeling_common.set_config_for_less_flaky_test
        patch = mock.patch.object(
            test_modeling_common,
            "set_config_for_less_flaky_test",
            lambda config: [loosen_norms(part) for part in (config.text_config, config.vision_config)],
        )
        patch.start()
        self.addCleanup(patch.stop)

    def test_config(self):
        self.config_tester.run_common_tests()

    def test_all_parameters_get_gradients(self):
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        for checkpointing in (False, True):
            model = LLMI3DForConditionalGeneration(config).to(torch_device).train()
            if checkpointing:
                model.activation_checkpointing_enable()
            outputs = model(**inputs, labels=inputs["input_ids"])
            boxes = [value.sum() for name, value in outputs.boxes_3d.items() if name != "mask"]
            (outputs.loss + sum(boxes)).backward()
            for name, parameter in model.named_parameters():
                with self.subTest(name, checkpointing=checkpointing):
                    self.assertEqual(parameter.grad is not None, parameter.requires_grad)

    def test_can_init_all_missing_weights(self):
        # In models outside its own tree transformers passes over modules without a parameter of their own, through
        # which CLIP and SigLIP draw their layers. Our own `_init_weights` goes by leaf modules, the same either way.
        with mock.patch.object(PreTrainedModel, "is_custom_code", return_value=False):
            super().test_can_init_all_missing_weights()

    def test_model_outputs_equivalence(self):
        # The common test subtracts what it compares, which torch refuses for `boxes_3d.mask`.
        def gather_with_integer_mask(*args):
            states, mask = gather_queries(*args)
            return states, mask.int()

        with mock.patch.object(modeling_llmi3d, "gather_queries", gather_with_integer_mask):
            super().test_model_outputs_equivalence()


class LLMI3DWithSiglipModelTest(LLMI3DModelTest):
    vision_model_type = "siglip_vision_model"


class LLMI3DWithQwen25VLModelTest(LLMI3DModelTest):
    vision_model_type = "qwen2_5_vl_vision"


class LLMI3DWithQwen3VLModelTest(LLMI3DModelTest):
    vision_model_type = "qwen3_vl_vision"
