"""Prints distinct texts, one per line: of the real stream if ../shared/stream is available, otherwise made up with similar lengths."""

import io
import json
import pathlib
import re
import shutil
import subprocess

COUNT = 8000
ARCHIVE = pathlib.Path(__file__).resolve().parents[3] / "shared/stream/spritzer_2019-07-03_0629-0641.jsonl.zst"


def posts():
    """Returns the texts of the archive's original posts, masked as by the default model's cleaning profile."""
    reader = subprocess.Popen(["zstd", "-dcq", str(ARCHIVE)], stdout=subprocess.PIPE)
    for line in io.TextIOWrapper(reader.stdout, encoding="utf-8"):
        post = json.loads(line)
        if "delete" in post:
            continue
        post = post.get("retweeted_status") or post
        text = (post.get("extended_tweet") or {}).get("full_text") or post.get("text") or ""
        text = re.sub(r"https?://\S+", "http", re.sub(r"@\w+", "@user", text))
        yield " ".join(text.split())


def made_up():
    for number in range(COUNT):
        yield f"post {number} " + "and on it goes " * (number * number % 13)


seen = set()
for text in posts() if ARCHIVE.exists() and shutil.which("zstd") else made_up():
    if text and text not in seen:
        seen.add(text)
        print(text)
    if len(seen) == COUNT:
        break
