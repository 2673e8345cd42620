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
import traceback

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
    found = {"device": torch.cuda.get_device_name() if device == "cuda" else "CPU"}
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
    """Measures other ways to run the checkpoint. The slow ones to start are last, as the step may run out of time."""
    from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

    from packed import Packed

    texts = pathlib.Path(texts).read_text(encoding="utf-8").splitlines()
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json", pad_token="<pad>", model_max_length=128)
    dtype = torch.float16 if device == "cuda" else torch.float32
    model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="sdpa", dtype=dtype)
    model = model.to(device).eval()
    ids = [tokenizer(text, truncation=True, max_length=128)["input_ids"] for text in texts]
    arrival = list(range(len(ids)))
    by_length = sorted(arrival, key=lambda index: len(ids[index]))

    def batches(order, batch):
        for start in range(0, len(order), batch):
            rows = [ids[index] for index in order[start : start + batch]]
            longest = max(map(len, rows))
            padded = torch.tensor([row + [1] * (longest - len(row)) for row in rows])
            yield padded.to(device), (padded != 1).long().to(device)

    @torch.inference_mode()
    def classify(model, order, batch):
        # The results are copied at the end, so that the host prepares a batch while the device computes another.
        logits = [model(input_ids=padded, attention_mask=mask).logits for padded, mask in batches(order, batch)]
        return torch.cat(logits).float().cpu()

    def fastest(peer, sizes, work, **more):
        rates = {size: len(ids) / seconds(lambda: work(size), device, 1) for size in sizes}
        best = max(rates, key=rates.get)
        say(peer=peer, batch=best, posts_per_second=rates[best], **more)
        return best

    sizes = [8] if size == "quick" else [64, 128, 256, 512]
    fastest("transformers, arrival order", sizes, lambda size: classify(model, arrival, size))
    batch = fastest("transformers, by length", sizes, lambda size: classify(model, by_length, size))

    packed = Packed(model, device, dtype)
    expected, got = classify(model, arrival[:20], 20), torch.cat([packed.logits(*part) for part in packed.batches(ids[:20], 512)])
    difference = (expected - got.float().cpu()).abs().max().item()
    allowed = (2e-2 if dtype == torch.float16 else 1e-4) * max(1.0, expected.abs().max().item())
    if not difference <= allowed:
        raise SystemExit(f"without padding, logits differ by {difference:.3g}, of {allowed:.3g} allowed")

    def classify_packed(budget):
        return torch.cat([packed.logits(*part) for part in packed.batches(ids, budget)]).float().cpu()

    found = {"attention": packed.attention.__name__, "logits_difference": difference}
    budgets = [512] if size == "quick" else [4096, 8192, 16384, 32768, 65536]
    budget = fastest("without padding", budgets, classify_packed, **found)
    if size == "quick":
        return
    # One layer is compiled, which takes seconds, and all layers share it. Where one can't be compiled, the other may.
    packed.after_attention = torch.compile(packed.after_attention, dynamic=True)
    compiled = torch.compile(model, dynamic=True)
    for work in (lambda: fastest("without padding, compiled", [budget], classify_packed, **found),
                 lambda: fastest("transformers compiled, by length", [batch], lambda size: classify(compiled, by_length, size))):
        try:
            work()
        except Exception:
            traceback.print_exc()


if __name__ == "__main__":
    {"checkpoint": checkpoint, "ceiling": ceiling, "peers": peers}[sys.argv[1]](*sys.argv[2:])
