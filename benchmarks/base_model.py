"""A model of facebook/dinov2-base's size with random weights: as fast as the real one, without a download."""

import json
from pathlib import Path

PROCESSOR = {  # facebook/dinov2-base's own
    "image_processor_type": "BitImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"shortest_edge": 256},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


def make_base_model(folder: Path) -> Path:
    """Writes the model to `folder`: 768 dimensions, 12 layers, patch 14, positions for 518 pixels."""
    # slow imports: 3 to 20 s
    import torch
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)  # the process is a benchmark's own
    config = Dinov2Config(
        hidden_size=768, num_hidden_layers=12, num_attention_heads=12, patch_size=14, image_size=518
    )
    Dinov2Model(config).eval().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder
