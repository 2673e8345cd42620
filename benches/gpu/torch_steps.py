"""The steps of benches/gpu/run that need PyTorch, each run as a separate process. Prints JSON lines.

    torch_steps.py checkpoint OUT TOKENIZER_FOLDER LAYERS
    torch_steps.py ceiling cuda|cpu SIZE
    torch_steps.py peers cuda|cpu CHECKPOINT TEXTS quick|full
"""

import json
import pathlib
import shutil
import sys
import time

import torch


def say(**values):
    print(json.dumps(values), flush=True)


def wait(device):
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(work, device, repeats):
    """Returns the shortest time of several runs after a warm-up."""
    work()
    wait(device)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - start)
    return min(times)


def checkpoint(out, tokenizer_folder, layers):
    """Creates a model with RoBERTa-base's shape and random weights, which do not affect its speed."""
    from transformers import RobertaConfig, RobertaForSequenceClassification

    out, source = pathlib.Path(out), pathlib.Path(tokenizer_folder)
    vocabulary = json.loads((source / "tokenizer.json").read_text())["model"]["vocab"]
    labels = json.loads((source / "config.json").read_text())["id2label"]
    config = RobertaConfig(
        # 64 more than needed, and a multiple of 64, because added tokens have ids beyond the vocabulary's.
        vocab_size=(len(vocabulary) + 127) // 64 * 64, hidden_size=768, num_hidden_layers=int(layers), num_attention_heads=12,
        intermediate_size=3072, max_position_embeddings=130, type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2,
        id2label={int(key): label for key, label in labels.items()}, label2id={label: int(key) for key, label in labels.items()},
        problem_type="single_label_classification",
    )
    torch.manual_seed(1)
    model = RobertaForSequenceClassification(config).eval()
    # Initial random weights give nearly equal scores. Larger ones in the head make the texts distinguishable.
    with torch.no_grad():
        for weights in model.classifier.parameters():
            weights.mul_(20)
    model.save_pretrained(out)
    shutil.copy(source / "tokenizer.json", out)
    shutil.copy(source / "tokenizer_config.json", out)


def ceiling(device, size):
    size = int(size)
    found = {}
    # Many CPUs have no units for 16-bit types, so only fp32 is certain to be available.
    types = {"fp32": torch.float32} if device == "cpu" else {"bf16": torch.bfloat16, "fp16": torch.float16}
    for name, dtype in types.items():
        a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
        found[f"flops_{name}"] = 2 * size**3 / seconds(lambda: a @ b, device, 5)
    source = torch.empty(size * size, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    # Each byte is read and written once.
    found["copy_bytes"] = 2 * source.nbytes / seconds(lambda: target.copy_(source), device, 5)
    say(**found)


def peers(device, folder, texts, size):
    from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

    texts = pathlib.Path(texts).read_text(encoding="utf-8").splitlines()
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json", pad_token="<pad>", model_max_length=128)
    dtype = torch.float16 if device == "cuda" else torch.float32
    model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="sdpa", dtype=dtype)
    model = model.to(device).eval()
    ids = [tokenizer(text, truncation=True, max_length=128)["input_ids"] for text in texts]
    by_length = sorted(range(len(ids)), key=lambda index: len(ids[index]))

    def batches(order, batch):
        for start in range(0, len(order), batch):
            rows = [ids[index] for index in order[start : start + batch]]
            longest = max(map(len, rows))
            padded = torch.tensor([row + [1] * (longest - len(row)) for row in rows])
            yield padded.to(device), (padded != 1).long().to(device)

    @torch.inference_mode()
    def classify(model, order, batch):
        for padded, mask in batches(order, batch):
            model(input_ids=padded, attention_mask=mask).logits.float().cpu()

    arrival = list(range(len(ids)))
    sizes = [8] if size == "quick" else [32, 64, 128, 256, 512]
    for name, order in (("transformers, arrival order", arrival), ("transformers, by length", by_length)):
        rates = {batch: len(ids) / seconds(lambda: classify(model, order, batch), device, 1) for batch in sizes}
        batch = max(rates, key=rates.get)
        say(peer=name, batch=batch, posts_per_second=rates[batch])
    if size != "quick":
        compiled = torch.compile(model, dynamic=True)
        say(peer="transformers compiled, by length", batch=128,
            posts_per_second=len(ids) / seconds(lambda: classify(compiled, by_length, 128), device, 1))


if __name__ == "__main__":
    {"checkpoint": checkpoint, "ceiling": ceiling, "peers": peers}[sys.argv[1]](*sys.argv[2:])
