"""A DINOv2 model's forward pass rearranged to be fast: the same function, but for rounding.

The queries, keys and values of a layer are one product, the layer scale is part of the weights, the
normalisation of pixels is part of the patch embedding, positions are interpolated once, and the last layer is
computed for the tokens that are asked for only. On an NVIDIA card GELU is part of the product before it,
by its tanh formula.
"""

import torch
from torch import nn
from torch.nn.functional import layer_norm, linear, scaled_dot_product_attention, silu
from transformers.activations import ACT2FN

from embedding.levels import InputForm, normalized

MIDDLE = 128  # levels less this are small whole numbers, which 8 bits of precision hold exactly

Weights = dict[str, torch.Tensor]

NAMES = {  # transformers before 5.18 or so: now
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "mlp.weights_out": "mlp.down_proj",
}


@torch.library.custom_op("embedding::linear_gelu", mutates_args=())
def linear_gelu(tokens: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """GELU by its tanh formula of a linear layer: one kernel on a card, where the inner values stay in it.

    An operator of its own because torch.compile would take PyTorch's apart again.
    """
    inner = torch._addmm_activation(bias, tokens.flatten(0, -2), weight.T, use_gelu=True)
    return inner.view(*tokens.shape[:-1], -1)


@linear_gelu.register_fake
def _(tokens: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return tokens.new_empty(*tokens.shape[:-1], len(weight))


class PlainVit(nn.Module):
    """The transformers model as it is: levels (n, 1 or 3, side, side) to its last hidden states."""

    def __init__(self, model: nn.Module, form: InputForm) -> None:
        super().__init__()
        self.model, self.form = model, form
        self.leading = 1 + getattr(model.config, "num_register_tokens", 0)

    def forward(self, levels: torch.Tensor) -> torch.Tensor:
        pixels = normalized(levels, self.form).contiguous().to(self.model.device)  # or convolved otherwise
        return self.model(pixel_values=pixels).last_hidden_state


class FastVit(nn.Module):
    """Levels (n, 1 or 3, side, side) to the last hidden states (n, tokens, d); (n, 1, d) with `cls_only`."""

    def __init__(
        self, model: nn.Module, form: InputForm, cls_only: bool, dtype: torch.dtype = torch.bfloat16
    ) -> None:
        """Takes the float32 weights of a transformers model, which stays as it is."""
        super().__init__()
        config = model.config
        weights = _named(model)
        self.patch, self.cls_only = config.patch_size, cls_only
        self.register_buffer("final_weight", weights["layernorm.weight"].to(dtype))
        self.register_buffer("final_bias", weights["layernorm.bias"].to(dtype))
        self.eps = config.layer_norm_eps
        with torch.inference_mode(False), torch.no_grad():
            gray = normalized(torch.full((1, 3, form.side, form.side), MIDDLE, dtype=torch.uint8), form)
            tokens = model.embeddings(gray)  # (1, tokens, d): of a gray image, so without any pixels' share
        self.leading = tokens.shape[1] - (form.side // self.patch) ** 2
        self.register_buffer("tokens", tokens.to(dtype))
        kernel = weights["embeddings.patch_embeddings.projection.weight"]  # (d, 3, patch, patch)
        kernel = kernel * (form.factor / torch.tensor(form.std)).view(3, 1, 1)
        self.register_buffer("color", kernel.flatten(1).to(dtype))
        self.register_buffer("gray", kernel.sum(1).flatten(1).to(dtype))
        layers = [_below(weights, f"encoder.layer.{number}.") for number in range(config.num_hidden_layers)]
        self.layers = nn.ModuleList(Layer(layer, config, dtype) for layer in layers)

    def forward(self, levels: torch.Tensor) -> torch.Tensor:
        hidden = self._embed(levels)
        for layer in self.layers[:-1]:
            hidden = layer(hidden, hidden.shape[1])
        hidden = self.layers[-1](hidden, 1 if self.cls_only else hidden.shape[1])
        return layer_norm(hidden, hidden.shape[-1:], self.final_weight, self.final_bias, self.eps)

    def _embed(self, levels: torch.Tensor) -> torch.Tensor:
        n, channels, height, width = levels.shape
        rows, columns = height // self.patch, width // self.patch
        pixels = levels.to(self.tokens.dtype) - MIDDLE
        pixels = pixels[:, :, : rows * self.patch, : columns * self.patch]
        pixels = pixels.reshape(n, channels, rows, self.patch, columns, self.patch)
        pixels = pixels.permute(0, 2, 4, 1, 3, 5).reshape(n, rows * columns, -1)
        patches = linear(pixels, self.gray if channels == 1 else self.color)
        leading = self.tokens[:, : self.leading].expand(n, -1, -1)
        return torch.cat([leading, self.tokens[:, self.leading :] + patches], dim=1)


class Layer(nn.Module):
    """One transformer layer, for the first `asked` of the tokens (n, tokens, d)."""

    def __init__(self, weights: Weights, config: object, dtype: torch.dtype) -> None:
        super().__init__()
        self.heads, self.eps = config.num_attention_heads, config.layer_norm_eps
        self.gated = config.use_swiglu_ffn
        fused = hasattr(torch, "_addmm_activation")  # not a public function of torch's
        self.gelu = fused and not self.gated and config.hidden_act == "gelu"
        self.activation = ACT2FN[config.hidden_act]
        for name, value in (_feed_forward(weights) | _attention(weights)).items():
            self.register_buffer(name, value.detach().to(dtype).contiguous())
        for norm in ("norm1", "norm2"):
            for kind in ("weight", "bias"):
                self.register_buffer(f"{norm}_{kind}", weights[f"{norm}.{kind}"].detach().to(dtype))

    def forward(self, hidden: torch.Tensor, asked: int) -> torch.Tensor:
        n, tokens, d = hidden.shape
        seen = layer_norm(hidden, (d,), self.norm1_weight, self.norm1_bias, self.eps)
        projected = linear(seen, self.qkv_weight, self.qkv_bias).view(n, tokens, 3, self.heads, -1)
        query, key, value = projected.permute(2, 0, 3, 1, 4)  # each (n, heads, tokens, d / heads)
        mixed = scaled_dot_product_attention(query[:, :, :asked], key, value).transpose(1, 2)
        hidden = hidden[:, :asked] + linear(mixed.reshape(n, asked, d), self.out_weight, self.out_bias)
        seen = layer_norm(hidden, (d,), self.norm2_weight, self.norm2_bias, self.eps)
        return hidden + linear(self._inner(seen), self.down_weight, self.down_bias)

    def _inner(self, seen: torch.Tensor) -> torch.Tensor:
        if self.gelu and seen.is_cuda:
            return linear_gelu(seen, self.in_weight, self.in_bias)
        inner = linear(seen, self.in_weight, self.in_bias)
        if self.gated:
            gate, inner = inner.chunk(2, dim=-1)
            return silu(gate) * inner
        return self.activation(inner)


def fast_vit(model: nn.Module, form: InputForm, cls_only: bool) -> FastVit | None:
    """The model in bfloat16; None where its weights have names that are not known here."""
    try:
        return FastVit(model, form, cls_only)
    except KeyError:
        return None


def _named(model: nn.Module) -> Weights:
    """The weights by the names they have in current versions of transformers."""
    weights = {}
    for name, value in model.state_dict().items():
        for before, now in NAMES.items():
            name = name.replace(before, now)
        weights[name] = value
    return weights


def _below(weights: Weights, start: str) -> Weights:
    """The weights whose names begin so, by the rest of their names."""
    return {name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)}


def _attention(weights: Weights) -> Weights:
    scale = weights["layer_scale1.lambda1"]
    parts = [f"attention.{part}_proj" for part in "qkv"]
    biases = [weights.get(f"{part}.bias") for part in parts]
    qkv = torch.cat([weights[f"{part}.weight"] for part in parts])
    return {
        "qkv_weight": qkv,
        "qkv_bias": torch.zeros(len(qkv)) if biases[0] is None else torch.cat(biases),
        "out_weight": weights["attention.o_proj.weight"] * scale[:, None],
        "out_bias": weights["attention.o_proj.bias"] * scale,
    }


def _feed_forward(weights: Weights) -> Weights:
    scale = weights["layer_scale2.lambda1"]
    if "mlp.gate_proj.weight" in weights:
        wide, narrow = ["mlp.gate_proj", "mlp.up_proj"], "mlp.down_proj"
    elif "mlp.weights_in.weight" in weights:
        wide, narrow = ["mlp.weights_in"], "mlp.down_proj"
    else:
        wide, narrow = ["mlp.fc1"], "mlp.fc2"
    return {
        "in_weight": torch.cat([weights[f"{part}.weight"] for part in wide]),
        "in_bias": torch.cat([weights[f"{part}.bias"] for part in wide]),
        "down_weight": weights[f"{narrow}.weight"] * scale[:, None],
        "down_bias": weights[f"{narrow}.bias"] * scale,
    }
