"""Models of kinds that no package holds, as PyTorch exports them: the structure of real ones, small, weights at random.

    python bench/made_models.py FOLDER

Made for bench/models.py: a reranker, twice more with weights in FP16, the encoder of a speech recognizer, CLIP, a
MobileViT, and FSRCNN. Random weights show that a model goes through, and what that costs, not what it keeps of a task.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import transformers as hub
from onnxruntime.transformers.float16 import convert_float_to_float16

TOKENS = torch.randint(1, 1000, (2, 24), generator=torch.Generator().manual_seed(0))
TEXT = {0: "batch", 1: "sequence"}
Exported = tuple[torch.nn.Module, Callable[..., Any], dict[str, torch.Tensor], dict[str, dict[int, str]], list[str]]


class Called(torch.nn.Module):
    """``model`` with inputs in their order and with tensors as outputs."""

    def __init__(self, model: torch.nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self.call = model, call

    def forward(self, *tensors: torch.Tensor) -> Any:
        """What the exporter traces."""
        return self.call(self.model, *tensors)


def reranker() -> Exported:
    """A cross encoder: pairs of texts, told apart by token_type_ids, to one score."""
    model = hub.BertForSequenceClassification(
        hub.BertConfig(hidden_size=384, num_hidden_layers=2, intermediate_size=1536, num_labels=1)
    )
    feeds = {"input_ids": TOKENS, "attention_mask": TOKENS * 0 + 1, "token_type_ids": TOKENS * 0}
    axes = dict.fromkeys(feeds, TEXT) | {"score": {0: "batch"}}
    return model, lambda m, i, a, t: m(input_ids=i, attention_mask=a, token_type_ids=t).logits, feeds, axes, ["score"]


def speech_encoder() -> Exported:
    """Whisper's: two Convs over 30 s of mel bands, then attention."""
    config = hub.WhisperConfig(d_model=384, encoder_layers=2, encoder_attention_heads=6, decoder_layers=1)
    feeds = {"features": torch.zeros(1, 80, 3000)}
    axes = {"features": {0: "batch"}, "hidden": {0: "batch"}}
    model = hub.WhisperModel(config).encoder
    return model, lambda m, x: m(x).last_hidden_state, feeds, axes, ["hidden"]


def clip() -> Exported:
    """Both towers, and how well each text goes with each image."""
    text = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 2, "num_attention_heads": 6}
    model = hub.CLIPModel(hub.CLIPConfig(text_config=text, vision_config=vision, projection_dim=256))
    feeds = {"input_ids": TOKENS, "pixel_values": torch.zeros(2, 3, 224, 224), "attention_mask": TOKENS * 0 + 1}
    texts = {0: "texts", 1: "sequence"}
    axes = {"input_ids": texts, "pixel_values": {0: "images"}, "attention_mask": texts}
    outputs = ["logits_per_image", "text_embeds", "image_embeds"]

    def call(m: Any, i: torch.Tensor, p: torch.Tensor, a: torch.Tensor) -> Any:
        found = m(input_ids=i, pixel_values=p, attention_mask=a)
        return tuple(getattr(found, name) for name in outputs)

    return model, call, feeds, axes, outputs


def mobilevit() -> Exported:
    """Convs and attention by turns."""
    sizes = {"hidden_sizes": [64, 80, 96], "neck_hidden_sizes": [16, 16, 24, 48, 64, 80, 320]}
    model = hub.MobileViTModel(hub.MobileViTConfig(**sizes))
    feeds = {"pixel_values": torch.zeros(1, 3, 256, 256)}
    axes = {"pixel_values": {0: "batch"}, "pooled": {0: "batch"}}
    return model, lambda m, x: m(x).pooler_output, feeds, axes, ["pooled"]


def super_resolution() -> Exported:
    """FSRCNN: images three times as large, by a transposed convolution; the sizes of both have one name."""
    layers: list[torch.nn.Module] = [torch.nn.Conv2d(1, 56, 5, padding=2), torch.nn.PReLU(56)]
    for wide, narrow, size in ((56, 12, 1), *[(12, 12, 3)] * 4, (12, 56, 1)):
        layers += [torch.nn.Conv2d(wide, narrow, size, padding=size // 2), torch.nn.PReLU(narrow)]
    layers.append(torch.nn.ConvTranspose2d(56, 1, 9, stride=3, padding=4, output_padding=2))
    sizes = {0: "batch", 2: "height", 3: "width"}
    axes = {"image": sizes, "large": sizes}
    return torch.nn.Sequential(*layers), lambda m, x: m(x), {"image": torch.zeros(1, 1, 48, 48)}, axes, ["large"]


def export(path: Path, exported: Exported) -> None:
    model, call, feeds, axes, outputs = exported
    called = Called(model, call).eval()
    options: dict[str, Any] = {"input_names": list(feeds), "output_names": outputs, "dynamic_axes": axes}
    torch.onnx.export(called, tuple(feeds.values()), str(path), opset_version=17, dynamo=False, **options)


def store_in_half(path: Path, target: Path) -> None:
    """The model with weights in FP16 and a Cast behind each, as tools do that make files smaller."""
    model = onnx.load(path)
    for tensor in list(model.graph.initializer):
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.ndim == 2:
            name = tensor.name
            tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float16), f"{name}.half"))
            cast = onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT)
            model.graph.node.insert(0, cast)
    onnx.save(model, target)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    for make in (reranker, speech_encoder, clip, mobilevit, super_resolution):
        export(folder / f"{make.__name__}.onnx", make())
    half = convert_float_to_float16(onnx.load(folder / "reranker.onnx"), keep_io_types=True)
    onnx.save(half, folder / "reranker_fp16.onnx")
    store_in_half(folder / "reranker.onnx", folder / "reranker_stored_fp16.onnx")


if __name__ == "__main__":
    main()
