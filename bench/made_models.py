"""Models of kinds that no package holds, as PyTorch exports them: the structure of real ones, small, weights at random.

    python bench/made_models.py FOLDER

Made for bench/models.py: a reranker, twice more with weights in FP16, the encoder of a speech recognizer, CLIP, a
MobileViT, FSRCNN, a U-Net, and a small U2-Net. Random weights show that a model goes through, and what that costs,
not what it keeps of a task.
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


class UNet(torch.nn.Module):
    """Halved in size and doubled in channels four times, and back, each half of which is beside what it came from."""

    def __init__(self, channels: int = 16, depth: int = 4) -> None:
        super().__init__()
        wide = [channels << level for level in range(depth)]
        self.down = torch.nn.ModuleList(map(_twice, [3, *wide[:-1]], wide))
        self.middle = _norm(wide[-1], wide[-1])
        self.up = torch.nn.ModuleList(
            torch.nn.ConvTranspose2d(before, after, 2, stride=2)
            for before, after in zip([wide[-1], *wide[:0:-1]], wide[::-1], strict=True)
        )
        self.join = torch.nn.ModuleList(_norm(2 * size, size) for size in wide[::-1])
        self.head = torch.nn.Conv2d(channels, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, 3, h, w] to [n, 1, h, w]."""
        beside = []
        for block in self.down:
            beside.append(block(x))
            x = torch.nn.functional.max_pool2d(beside[-1], 2)
        x = self.middle(x)
        for grow, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([grow(x), beside.pop()], 1))
        return torch.sigmoid(self.head(x))


class Nested(torch.nn.Module):
    """A block of U2-Net: a U-Net inside of a residual, which grows by interpolation."""

    def __init__(self, depth: int, wide: int, narrow: int, out: int) -> None:
        super().__init__()
        self.first = _norm(wide, out)
        self.down = torch.nn.ModuleList([_norm(out, narrow), *(_norm(narrow, narrow) for _ in range(depth - 2))])
        self.middle = _norm(narrow, narrow, 2)
        joins = [_norm(2 * narrow, narrow) for _ in range(depth - 2)]
        self.join = torch.nn.ModuleList([*joins, _norm(2 * narrow, out)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, wide, h, w] to [n, out, h, w]."""
        first = x = self.first(x)
        beside = []
        for block in self.down:
            if beside:
                x = torch.nn.functional.max_pool2d(x, 2, ceil_mode=True)
            x = block(x)
            beside.append(x)
        x = self.middle(x)
        for join in self.join:
            x = join(torch.cat([_as_large(x, beside[-1]), beside.pop()], 1))
        return x + first


class Saliency(torch.nn.Module):
    """U2-Net with five blocks, and a map from each that grows back."""

    def __init__(self) -> None:
        super().__init__()
        self.down = torch.nn.ModuleList([Nested(5, 3, 16, 64), Nested(4, 64, 16, 64), Nested(3, 64, 16, 64)])
        self.up = torch.nn.ModuleList([Nested(4, 128, 16, 64), Nested(5, 128, 16, 64)])
        self.sides = torch.nn.ModuleList(torch.nn.Conv2d(64, 1, 3, padding=1) for _ in range(3))
        self.joined = torch.nn.Conv2d(3, 1, 1)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """[n, 3, h, w] to four of [n, 1, h, w]."""
        x, beside = image, []
        for block in self.down:
            if beside:
                x = torch.nn.functional.max_pool2d(x, 2, ceil_mode=True)
            x = block(x)
            beside.append(x)
        grown = [beside.pop()]
        for block in self.up:
            grown.append(block(torch.cat([_as_large(grown[-1], beside[-1]), beside.pop()], 1)))
        maps = [_as_large(side(x), image) for side, x in zip(self.sides, grown[::-1], strict=True)]
        return tuple(map(torch.sigmoid, [self.joined(torch.cat(maps, 1)), *maps]))


def _norm(wide: int, out: int, apart: int = 1) -> torch.nn.Sequential:
    conv = torch.nn.Conv2d(wide, out, 3, padding=apart, dilation=apart)
    return torch.nn.Sequential(conv, torch.nn.BatchNorm2d(out), torch.nn.ReLU())


def _twice(wide: int, out: int) -> torch.nn.Sequential:
    return torch.nn.Sequential(_norm(wide, out), _norm(out, out))


def _as_large(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.interpolate(x, size=other.shape[2:], mode="bilinear", align_corners=False)


def segmentation() -> Exported:
    """A U-Net, of which the caller chooses the size."""
    axes = {name: {0: "n", 2: "h", 3: "w"} for name in ("image", "mask")}
    return UNet(), lambda m, x: m(x), {"image": torch.zeros(1, 3, 64, 64)}, axes, ["mask"]


def saliency() -> Exported:
    """A U2-Net of one size, which no output is said to have."""
    outputs = ["d0", "d1", "d2", "d3"]
    return Saliency(), lambda m, x: m(x), {"image": torch.zeros(1, 3, 320, 320)}, {"image": {0: "batch"}}, outputs


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
    for make in (reranker, speech_encoder, clip, mobilevit, super_resolution, segmentation, saliency):
        export(folder / f"{make.__name__}.onnx", make())
    half = convert_float_to_float16(onnx.load(folder / "reranker.onnx"), keep_io_types=True)
    onnx.save(half, folder / "reranker_fp16.onnx")
    store_in_half(folder / "reranker.onnx", folder / "reranker_stored_fp16.onnx")


if __name__ == "__main__":
    main()
