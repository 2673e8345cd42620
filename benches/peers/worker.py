"""The parts of benches/peers/run that need its virtual environment, each run as a separate process.

    worker.py checkpoint random OUT SHIPPED_FOLDER LAYERS   a checkpoint of RoBERTa-base's shape and random weights
    worker.py checkpoint shipped OUT SHIPPED_FOLDER         a checkpoint from the weights of the shipped fp16 file
    worker.py openvino CHECKPOINT OUT CALIBRATION COUNT     OUT/fp32.xml, and OUT/int8.xml by NNCF with COUNT texts
    worker.py ort-int8 MODEL_ONNX OUT_ONNX                  ONNX Runtime's dynamic int8
    worker.py serve ENGINE FOLDER TEXTS                     one engine: see below

`serve` prints a JSON line when it is ready. For each line on standard input it then classifies all texts, tokenising
included, and prints a JSON line with the processor and wall time in seconds and the labels in the texts' order.
"""

import json
import os
import pathlib
import re
import shutil
import sys
import time

# Before the libraries are imported, which read them once.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", RAYON_NUM_THREADS="1",
                  TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")

MAX_TOKENS = 128


def say(**values):
    print(json.dumps(values), flush=True)


# Preparing models


def checkpoint(kind, out, shipped, layers="12"):
    import torch
    from transformers import RobertaConfig, RobertaForSequenceClassification

    out, shipped = pathlib.Path(out), pathlib.Path(shipped)
    values = json.loads((shipped / "config.json").read_text())
    if kind == "random":
        vocabulary = json.loads((shipped / "tokenizer.json").read_text())["model"]["vocab"]
        # 64 more than needed, and a multiple of 64, because added tokens have ids beyond the vocabulary's.
        values.update(vocab_size=(len(vocabulary) + 127) // 64 * 64, hidden_size=768, num_hidden_layers=int(layers),
                      num_attention_heads=12, intermediate_size=3072, layer_norm_eps=1e-5)
    torch.manual_seed(1)
    model = RobertaForSequenceClassification(RobertaConfig(**values)).eval()
    with torch.no_grad():
        if kind == "random":
            # Initial random weights give nearly equal scores. Larger ones in the head make the texts distinguishable.
            for weights in model.classifier.parameters():
                weights.mul_(20)
        else:
            model.load_state_dict(weights_of(shipped / "onnx" / "model_fp16.onnx"))
    model.save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(shipped / name, out)


def weights_of(file):
    """Returns the weights in a fused fp16 file of `moodstream-lab export` by the names of transformers."""
    import numpy
    import onnx
    import torch

    places = {
        "embeddings/word_embeddings": "roberta.embeddings.word_embeddings.weight",
        "embeddings/position_embeddings": "roberta.embeddings.position_embeddings.weight",
        "embeddings/norm": "roberta.embeddings.LayerNorm.weight",
        "embeddings/norm_bias": "roberta.embeddings.LayerNorm.bias",
        "attention/output/weight": "attention.output.dense.weight",
        "attention/output/bias": "attention.output.dense.bias",
        "attention/output/norm": "attention.output.LayerNorm.weight",
        "attention/output/norm_bias": "attention.output.LayerNorm.bias",
        "intermediate/weight": "intermediate.dense.weight",
        "intermediate/bias": "intermediate.dense.bias",
        "output/weight": "output.dense.weight",
        "output/bias": "output.dense.bias",
        "output/norm": "output.LayerNorm.weight",
        "output/norm_bias": "output.LayerNorm.bias",
    }
    found, head = {}, 0
    for tensor in onnx.load(file).graph.initializer:
        name = re.sub(r"_c\d+$", "", tensor.name)
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype != numpy.float16:
            continue
        # Products in the file are x W; those of transformers are x W^T.
        value = torch.from_numpy(array.astype(numpy.float32))
        value = value.T.contiguous() if value.ndim == 2 and not name.startswith("embeddings/") else value
        layer = re.match(r"layer\.(\d+)/(.+)", name)
        if name.startswith("head/"):
            found[f"classifier.{'dense' if head < 2 else 'out_proj'}.{name[5:]}"] = value
            head += 1
        elif layer and "query_key_value" in name:
            for part, piece in zip(("query", "key", "value"), value.chunk(3)):
                kind = "bias" if name.endswith("_bias") else "weight"
                found[f"roberta.encoder.layer.{layer[1]}.attention.self.{part}.{kind}"] = piece.clone()
        elif layer:
            found[f"roberta.encoder.layer.{layer[1]}.{places[layer[2]]}"] = value
        else:
            found[places[name]] = value
    # The type of token is always 0, and its embedding is part of the positions'.
    found["roberta.embeddings.token_type_embeddings.weight"] = torch.zeros(1, found["roberta.embeddings.LayerNorm.bias"].numel())
    return found


def openvino(folder, out, calibration, count):
    import nncf
    import openvino
    import torch
    from transformers import AutoModelForSequenceClassification

    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="sdpa").eval()

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask):
            return self.model(input_ids=input_ids, attention_mask=attention_mask).logits

    texts = Texts(folder, calibration)
    rows = [texts.encode([text]) for text in texts.texts[: int(count)]]
    two = texts.encode(texts.texts[:2])
    ids, mask = texts.padded(two)
    example = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    with torch.no_grad():
        converted = openvino.convert_model(Logits().eval(), example_input=example)
    for place, name in zip(converted.inputs, example):
        place.get_tensor().set_names({name})
    converted.reshape({name: openvino.PartialShape([-1, -1]) for name in example})
    openvino.save_model(converted, out / "fp32.xml", compress_to_fp16=False)

    def inputs(row):
        ids, mask = texts.padded(row)
        return {"input_ids": ids, "attention_mask": mask}

    quantised = nncf.quantize(converted, nncf.Dataset(rows, inputs), model_type=nncf.ModelType.TRANSFORMER,
                              subset_size=len(rows))
    openvino.save_model(quantised, out / "int8.xml", compress_to_fp16=False)


def ort_int8(model, out):
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # The types of what the fused operators return are not in the file.
    quantize_dynamic(model, out, per_channel=True, weight_type=QuantType.QInt8,
                     extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT})


# Engines


class Texts:
    """Tokenised texts, in batches."""

    def __init__(self, folder, file):
        from tokenizers import Tokenizer

        self.texts = pathlib.Path(file).read_text(encoding="utf-8").rstrip("\n").split("\n")
        self.tokenizer = Tokenizer.from_file(str(pathlib.Path(folder) / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(MAX_TOKENS)
        self.labels = {int(key): label for key, label in
                       json.loads((pathlib.Path(folder) / "config.json").read_text())["id2label"].items()}

    def encode(self, texts):
        return [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]

    def padded(self, rows):
        """Returns token ids and mask, padded to the longest row with RoBERTa's padding, 1."""
        import numpy

        longest = max(map(len, rows))
        ids = numpy.full((len(rows), longest), 1, dtype=numpy.int64)
        for at, row in enumerate(rows):
            ids[at, : len(row)] = row
        return ids, (ids != 1).astype(numpy.int64)

    def classify(self, infer, batch):
        """Returns the labels of all texts, inferred in batches of about the same length."""
        rows = self.encode(self.texts)
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        labels = [""] * len(rows)
        for start in range(0, len(order), batch):
            indices = order[start : start + batch]
            logits = infer(*self.padded([rows[index] for index in indices]))
            for index, best in zip(indices, logits.argmax(-1).tolist()):
                labels[index] = self.labels[best]
        return labels


def transformers_fp32(folder, texts):
    import torch
    import transformers

    torch.set_num_threads(1)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json", pad_token="<pad>",
                                                     model_max_length=MAX_TOKENS)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    classify = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")

    def work():
        return [found["label"] for found in classify(texts.texts, batch_size=32, truncation=True)]

    return work, f"transformers {transformers.__version__}, torch {torch.__version__}"


def torch_bf16(folder, texts):
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.set_num_threads(1)
    model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="sdpa", dtype=torch.bfloat16).eval()

    @torch.inference_mode()
    def infer(ids, mask):
        return model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits.float().numpy()

    return lambda: texts.classify(infer, 8), f"torch {torch.__version__}"


def ort_dynamic(folder, texts):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(f"{folder}/ort-int8.onnx", options, providers=["CPUExecutionProvider"])

    def infer(ids, mask):
        return session.run(None, {"input_ids": ids, "attention_mask": mask})[0]

    return lambda: texts.classify(infer, 8), f"onnxruntime {onnxruntime.__version__}"


def openvino_engine(file, precision):
    def engine(folder, texts):
        import openvino

        options = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
        if precision:
            options["INFERENCE_PRECISION_HINT"] = precision
        compiled = openvino.Core().compile_model(f"{folder}/openvino/{file}", "CPU", options)
        request = compiled.create_infer_request()

        def infer(ids, mask):
            return request.infer({"input_ids": ids, "attention_mask": mask}, share_inputs=True, share_outputs=True)[0]

        hint = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        return lambda: texts.classify(infer, 32), f"openvino {openvino.__version__}, other operators in {hint}"

    return engine


ENGINES = {
    "transformers": transformers_fp32,
    "torch-bf16": torch_bf16,
    "ort-int8": ort_dynamic,
    "openvino-bf16": openvino_engine("fp32.xml", "bf16"),
    # By default OpenVINO chooses the type for what NNCF left in fp32.
    "openvino-int8": openvino_engine("int8.xml", None),
}


def serve(engine, folder, file):
    texts = Texts(folder, file)
    tokens = sum(map(len, texts.encode(texts.texts)))
    work, version = ENGINES[engine](folder, texts)
    everything = texts.texts
    # A warm-up: libraries choose and compile kernels at the first run.
    texts.texts = everything[:64]
    work()
    texts.texts = everything
    say(ready=version, texts=len(everything), tokens=tokens)
    for _ in sys.stdin:
        start, cpu = time.perf_counter(), time.process_time()
        labels = work()
        say(cpu_seconds=time.process_time() - cpu, wall_seconds=time.perf_counter() - start, labels=labels)


if __name__ == "__main__":
    {"checkpoint": checkpoint, "openvino": openvino, "ort-int8": ort_int8, "serve": serve}[sys.argv[1]](*sys.argv[2:])
