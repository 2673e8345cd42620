"""A forward pass of RoBERTa over packed tokens: the texts of a batch follow each other without padding, and attention gets the
positions at which they start. This is the strongest baseline that PyTorch offers without further packages."""

import sys

import torch
import torch.nn.functional as F


def varlen(query, key, value, starts, longest):
    """PyTorch's own variable-length attention (2.10 or newer)."""
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn(query, key, value, starts, starts, longest, longest)


def flash(query, key, value, starts, longest):
    """The operator that older versions have for it."""
    return torch.ops.aten._flash_attention_forward(
        query, key, value, starts, starts, longest, longest, 0.0, False, False)[0]


def nested(query, key, value, starts, longest):
    """SDPA on nested tensors."""
    parts = [torch.nested.nested_tensor_from_jagged(part, starts).transpose(1, 2) for part in (query, key, value)]
    return F.scaled_dot_product_attention(*parts).transpose(1, 2).values()


def one_by_one(query, key, value, starts, longest):
    """SDPA for each text: slow, but it works everywhere and is the reference for the others."""
    sizes = starts.diff().tolist()
    rows = zip(*(part.split(sizes) for part in (query, key, value)))
    return torch.cat([F.scaled_dot_product_attention(*(part.transpose(0, 1) for part in row)).transpose(0, 1)
                      for row in rows])


def find_attention(device, dtype, heads, size):
    """Returns the first kind of attention that works on the device and agrees with SDPA text by text."""
    if device != "cuda":
        return one_by_one
    starts = torch.tensor([0, 5, 12, 40], dtype=torch.int32, device=device)
    query, key, value = (torch.randn(40, heads, size, dtype=dtype, device=device) for _ in range(3))
    expected = one_by_one(query, key, value, starts, 28)
    for kind in (varlen, flash, nested):
        try:
            if torch.allclose(kind(query, key, value, starts, 28), expected, atol=1e-2):
                return kind
        except Exception as error:  # whatever this version lacks, another kind may work
            print(f"{kind.__name__}: {error}", file=sys.stderr)
    return one_by_one


def after_attention(hidden, context, weights, eps):
    """The part of a layer after attention. The weights are arguments, so that one compilation serves all layers."""
    output, output_bias, norm, norm_bias, up, up_bias, down, down_bias, last_norm, last_bias = weights
    width = (hidden.shape[-1],)
    hidden = F.layer_norm(hidden + F.linear(context, output, output_bias), width, norm, norm_bias, eps)
    inner = F.linear(F.gelu(F.linear(hidden, up, up_bias)), down, down_bias)
    return F.layer_norm(hidden + inner, width, last_norm, last_bias, eps)


class Packed:
    """The weights of a `RobertaForSequenceClassification`, for a forward pass without padding."""

    @torch.no_grad()
    def __init__(self, model, device, dtype):
        config, roberta = model.config, model.roberta
        self.eps, self.heads = config.layer_norm_eps, config.num_attention_heads
        self.first_position = config.pad_token_id + 1
        self.device = device
        self.attention = find_attention(device, dtype, self.heads, config.hidden_size // self.heads)
        self.after_attention = after_attention
        self.embeddings, self.head, self.layers = roberta.embeddings, model.classifier, []
        for layer in roberta.encoder.layer:
            own, out = layer.attention.self, layer.attention.output
            inputs = (own.query, own.key, own.value)
            self.layers.append((
                torch.cat([part.weight for part in inputs]), torch.cat([part.bias for part in inputs]),
                [tensor for part in (out.dense, out.LayerNorm, layer.intermediate.dense, layer.output.dense,
                                     layer.output.LayerNorm) for tensor in (part.weight, part.bias)],
            ))

    def batches(self, ids, budget):
        """Returns the inputs of batches of at most `budget` tokens, in the order of the texts."""
        batch, tokens = [], 0
        for row in ids:
            if batch and tokens + len(row) > budget:
                yield self.inputs(batch)
                batch, tokens = [], 0
            batch.append(row)
            tokens += len(row)
        if batch:
            yield self.inputs(batch)

    def inputs(self, rows):
        """Returns tokens, positions, the texts' starts with the end, and the length of the longest text."""
        sizes = torch.tensor([len(row) for row in rows])
        starts = F.pad(sizes.cumsum(0), (1, 0))
        tokens = torch.tensor([token for row in rows for token in row])
        positions = torch.arange(len(tokens)) - torch.repeat_interleave(starts[:-1], sizes) + self.first_position
        move = lambda tensor: tensor.to(self.device, non_blocking=True)  # noqa: E731
        return move(tokens), move(positions), move(starts.int()), int(sizes.max())

    @torch.inference_mode()
    def logits(self, tokens, positions, starts, longest):
        """Returns the logits of a batch, one row a text."""
        parts = self.embeddings
        hidden = parts.word_embeddings(tokens) + parts.position_embeddings(positions)
        hidden = parts.LayerNorm(hidden + parts.token_type_embeddings.weight[0])
        for weights, biases, rest in self.layers:
            query, key, value = F.linear(hidden, weights, biases).view(len(tokens), 3, self.heads, -1).unbind(1)
            context = self.attention(query, key, value, starts, longest).reshape(len(tokens), -1)
            hidden = self.after_attention(hidden, context, rest, self.eps)
        first = hidden[starts[:-1].long()]
        return self.head.out_proj(torch.tanh(self.head.dense(first)))
