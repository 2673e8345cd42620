"""Compares and selects results, and formats the report."""

import json

from processes import StepFailed

# What the proof requires.
MIN_EQUAL_LABELS = 0.995
# Between a text's scores alone and in a batch, in half precision.
MAX_BATCH_DIFFERENCE = 0.01
GOALS = [
    ("useful FLOP/s as a share of the ceiling", "share", 0.5),
    ("rate relative to transformers in arrival order", "transformers, arrival order", 3.0),
    ("rate relative to PyTorch without padding", "without padding", 1.2),
]


def json_lines(text):
    """Returns the JSON objects among the lines of a program's output, ignoring other lines."""
    found = []
    for line in text.splitlines():
        if line.startswith("{"):
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return found


def compare(reference, tested):
    """Compares two outputs of `moodstream classify` for the same texts: share of equal labels, largest difference of scores."""
    if len(reference) != len(tested) or not reference:
        raise StepFailed(f"{len(reference)} answers in the reference, {len(tested)} in the test: not the same texts")
    equal, difference = 0, 0.0
    for expected, got in zip(reference, tested):
        for answer in (expected, got):
            if "error" in answer:
                raise StepFailed(f"a text was not classified: {answer['error']}")
        if expected["text"] != got["text"] or expected["scores"].keys() != got["scores"].keys():
            raise StepFailed("the answers are not for the same texts and labels")
        equal += expected["emotion"] == got["emotion"]
        difference = max(difference, *(abs(expected["scores"][k] - got["scores"][k]) for k in expected["scores"]))
    return {"texts": len(reference), "equal_labels": equal / len(reference), "largest_difference": difference}


def proven(found):
    """Returns whether a result of the proof step shows that the model computes what it should."""
    return ("error" not in found and found["against_reference"]["equal_labels"] >= MIN_EQUAL_LABELS
            and found["alone_against_batched"]["largest_difference"] <= MAX_BATCH_DIFFERENCE)


def best(rates):
    """Returns the fastest combination."""
    measured = [rate for rate in rates if "posts_per_second" in rate]
    if not measured:
        raise StepFailed("; ".join(sorted({rate.get("error", "no rate") for rate in rates})) or "no rate was measured")
    return max(measured, key=lambda rate: rate["posts_per_second"])


def candidates(variants, proof):
    """Returns the names of the measured variants, fastest first, without those whose graph failed the proof."""
    failed = {model for model, found in proof.items() if not proven(found)}
    usable = [name for name, found in variants.items() if "best" in found and found["model"] not in failed]
    return sorted(usable, key=lambda name: -variants[name]["best"]["posts_per_second"])


def settings_of(variant, rate, window):
    """Returns a variant's settings with the limits at which it was fastest, by their names in the environment."""
    return {
        **variant["settings"], "classify__sessions": rate["sessions"], "classify__max_batch_posts": rate["max_batch_posts"],
        "classify__max_batch_tokens": rate["max_batch_tokens"], "window__max_posts": window,
    }


def ceiling_of(steps):
    """Returns the measured rate of matrix products in the precision of the model, or None."""
    found = steps.get("ceiling", {}).get("result", {})
    return found.get("flops_fp16") or found.get("flops_fp32")


def goals(steps):
    """Returns a line for each goal that can be assessed."""
    rate = steps.get("rates", {}).get("result", {}).get("chosen", {}).get("rate")
    if not rate:
        return []
    values = {name: rate["posts_per_second"] / peer["posts_per_second"]
              for name, peer in steps.get("peers", {}).get("result", {}).items()}
    if ceiling_of(steps):
        values["share"] = rate["flops_per_second"] / ceiling_of(steps)
    return [f"goal {what}: {values[key]:.2f}, {'reached' if values[key] >= least else 'missed'} (at least {least:g})"
            for what, key, least in GOALS if key in values]


def rate_line(name, rate, ceiling):
    share = f", {rate['flops_per_second'] / ceiling:.1%} of the ceiling" if ceiling else ""
    return (f"  {name:<28} {rate['posts_per_second']:9.0f} posts/s with {rate['sessions']} sessions, "
            f"{rate['max_batch_posts']} posts or {rate['max_batch_tokens']} tokens a batch{share}")


def table(report):
    """Formats the report as lines of text."""
    lines = [f"provider {report['provider']}, {report['started']}" + (f", {report['device']}" if report.get("device") else "")]
    steps = report["steps"]
    for name, step in steps.items():
        state = "ok" if "error" not in step else f"FAILED: {step['error']}"
        lines.append(f"{name:<10} {step['seconds']:7.1f} s  {state}")
    results = {name: step.get("result", {}) for name, step in steps.items()}
    for name, state in results.get("models", {}).items():
        if state != "ok":
            lines.append(f"no model {name}: {state}")
    for name, found in results.get("proof", {}).items():
        if "error" in found:
            lines.append(f"{name}: FAILED: {found['error']}")
            continue
        against, alone = found["against_reference"], found["alone_against_batched"]
        lines.append(f"{name}: labels of {found['reference']} on {against['equal_labels']:.2%} of {against['texts']} texts; "
                     f"alone or in a batch, scores differ by at most {alone['largest_difference']:.1e}"
                     + ("" if proven(found) else "  NOT PROVEN"))
    ceiling = ceiling_of(steps)
    if results.get("ceiling"):
        lines.append("ceiling: " + ", ".join(f"{key} {value:.3g}" for key, value in results["ceiling"].items()))
    rates = results.get("rates", {})
    if rates:
        lines.append("rates of the classifier:")
    for name, found in [*rates.get("variants", {}).items(), *rates.get("shipped", {}).items()]:
        if "best" in found:
            lines.append(rate_line(name, found["best"], ceiling))
        if "error" in found:
            lines.append(f"  {name:<28} {'incomplete' if 'best' in found else 'not measured'}: {found['error']}")
    if results.get("peers"):
        lines.append("peers:")
    ours = rates.get("chosen", {}).get("rate", {}).get("posts_per_second")
    for name, peer in results.get("peers", {}).items():
        ratio = f", moodstream {ours / peer['posts_per_second']:.2f} times that" if ours else ""
        more = ""
        if "attention" in peer:
            more = f", {peer['attention']} attention, logits within {peer['logits_difference']:.1e}"
        lines.append(f"  {name:<31} {peer['posts_per_second']:9.0f} posts/s with batches of {peer['batch']}{ratio}{more}")
    lines += service_lines(results.get("service", {}))
    if report["provider"] != "cpu":
        lines += goals(steps)
    if "chosen" in rates:
        chosen = rates["chosen"]
        lines.append(f"best settings ({chosen['variant']}, {chosen['checked']}): "
                     + ", ".join(f"{key.replace('__', '.')} = {value}" for key, value in chosen["settings"].items()))
    return "\n".join(lines)


def service_lines(service):
    lines = []
    if service:
        lines.append(f"the whole service, {service['posts']} posts fed in {service['fed_in_seconds']:.1f} s:")
    for name, run in service.get("runs", {}).items():
        if "error" in run:
            lines.append(f"  {name}: FAILED: {run['error']}")
            continue
        busy = ", ".join(f"{stage} {share:.0%}" for stage, share in run["busy"].items())
        cores = ", ".join(f"{process} {count:.1f}" for process, count in run["cores"].items())
        lines.append(f"  {name}: {run['posts_per_second']:.0f} posts/s over {run['seconds']:.1f} s; "
                     f"what limits it: {run['binds']}; busy: {busy}; cores: {cores}")
    return lines
