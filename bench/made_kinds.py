"""Models of many more kinds, as transformers builds and PyTorch exports them: tiny, weights at random.

    python bench/made_kinds.py FOLDER [KIND ...]

Made for bench/models.py, to see that the structure of a kind goes through.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hub

from made_models import TEXT, TOKENS, Exported, export

SIZES: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
WORDS = SIZES | {"vocab_size": 200}
T5 = {"vocab_size": 200, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16}
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
HALF = {"layers": 1, "attention_heads": 4, "ffn_dim": 64}
LAYERS = {f"{half}_{name}": size for half in ("encoder", "decoder") for name, size in HALF.items()}
DINO = {name: size for name, size in SIZES.items() if name != "intermediate_size"}
RESNET = {"embedding_size": 16, "hidden_sizes": [16, 32, 32, 64], "depths": [1] * 4, "out_features": ["stage4"]}
SEGFORMER = {"hidden_sizes": [16, 32, 64, 64], "depths": [1] * 4, "decoder_hidden_size": 64, "num_labels": 5}
SOUND = {"conv_dim": (32, 32, 32), "conv_stride": (5, 4, 4), "conv_kernel": (10, 8, 4), "num_conv_pos_embeddings": 16}


def text(model: Any, output: str = "last_hidden_state") -> Exported:
    """Of tokens; the output has something for each."""
    feeds = {"input_ids": TOKENS % 200, "attention_mask": TOKENS * 0 + 1}
    axes = dict.fromkeys([*feeds, output], TEXT)
    return model, lambda m, i, a: getattr(m(input_ids=i, attention_mask=a), output), feeds, axes, [output]


def image(model: Any, *outputs: str, size: int = 64) -> Exported:
    """Of a picture; a vector comes out if nothing else is said."""
    names = list(outputs or ("pooler_output",))

    def call(m: Any, x: torch.Tensor) -> Any:
        found = m(pixel_values=x)
        return tuple(getattr(found, name) for name in names)

    axes = {name: {0: "batch"} for name in ("pixel_values", *names)}
    return model, call, {"pixel_values": torch.zeros(2, 3, size, size)}, axes, names


def detr() -> Any:
    """A detector with queries."""
    own = dict.fromkeys(("use_timm_backbone", "use_pretrained_backbone"), False)
    backbone = hub.ResNetConfig(**RESNET)
    return hub.DetrForObjectDetection(
        hub.DetrConfig(d_model=64, num_queries=10, backbone_config=backbone, **own, **LAYERS)
    )


def speech() -> Exported:
    """wav2vec2, from the wave to letters."""
    config = hub.Wav2Vec2Config(**SIZES, **SOUND, vocab_size=32, num_conv_pos_embedding_groups=4)
    axes = {"sound": {0: "batch", 1: "samples"}, "logits": {0: "batch", 1: "frames"}}
    return hub.Wav2Vec2ForCTC(config), lambda m, x: m(x).logits, {"sound": torch.zeros(2, 8000)}, axes, ["logits"]


def spectrum() -> Exported:
    """An audio spectrogram transformer."""
    model = hub.ASTModel(hub.ASTConfig(max_length=64, num_mel_bins=32, **SIZES))
    axes = {"mels": {0: "batch"}, "pooled": {0: "batch"}}
    return model, lambda m, x: m(input_values=x).pooler_output, {"mels": torch.zeros(2, 64, 32)}, axes, ["pooled"]


KINDS: dict[str, Callable[[], Exported]] = {
    "t5": lambda: text(hub.T5EncoderModel(hub.T5Config(**T5))),
    "albert": lambda: text(hub.AlbertModel(hub.AlbertConfig(embedding_size=32, **WORDS))),
    "deberta": lambda: text(hub.DebertaV2Model(hub.DebertaV2Config(**RELATIVE, **WORDS))),
    "roformer": lambda: text(hub.RoFormerModel(hub.RoFormerConfig(embedding_size=64, **WORDS))),
    "modernbert": lambda: text(hub.ModernBertModel(hub.ModernBertConfig(attn_implementation="eager", **ENDS, **WORDS))),
    "token_classes": lambda: text(hub.BertForTokenClassification(hub.BertConfig(num_labels=9, **WORDS)), "logits"),
    "gpt2": lambda: text(
        hub.GPT2LMHeadModel(hub.GPT2Config(vocab_size=200, n_embd=64, n_layer=2, n_head=4, use_cache=False)), "logits"
    ),
    "llama": lambda: text(
        hub.LlamaForCausalLM(hub.LlamaConfig(num_key_value_heads=2, use_cache=False, **WORDS)), "logits"
    ),
    "bart": lambda: text(hub.BartModel(hub.BartConfig(vocab_size=200, d_model=64, use_cache=False, **LAYERS))),
    "swin": lambda: image(
        hub.SwinModel(hub.SwinConfig(image_size=64, embed_dim=32, depths=[2, 2], num_heads=[2, 4], window_size=4))
    ),
    "convnext": lambda: image(
        hub.ConvNextModel(hub.ConvNextConfig(hidden_sizes=[32, 64, 96, 128], depths=[1, 1, 2, 1]))
    ),
    "segformer": lambda: image(hub.SegformerForSemanticSegmentation(hub.SegformerConfig(**SEGFORMER)), "logits"),
    "regnet": lambda: image(
        hub.RegNetModel(
            hub.RegNetConfig(embedding_size=16, hidden_sizes=[32, 64, 64, 64], depths=[1] * 4, groups_width=16)
        )
    ),
    "mobilenetv2": lambda: image(hub.MobileNetV2Model(hub.MobileNetV2Config(depth_multiplier=0.35))),
    "dinov2": lambda: image(hub.Dinov2Model(hub.Dinov2Config(image_size=56, **DINO)), size=56),
    "detr": lambda: image(detr(), "logits", "pred_boxes"),
    "wav2vec2": speech,
    "spectrum": spectrum,
}


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for kind in sys.argv[2:] or KINDS:
        torch.manual_seed(0)
        export(folder / f"{kind}.onnx", KINDS[kind]())


if __name__ == "__main__":
    main()
