"""Creates the lemmatiser's word lists from WordNet 3.0, and the reference output of NLTK's lemmatiser for its tests.

    apt-get download wordnet-base && dpkg-deb -x wordnet-base_*.deb DEB
    pip install nltk==3.10.4
    python make.py lists DEB/usr/share/wordnet            writes nouns.txt, verbs.txt and irregular.tsv to this folder
    python make.py pairs DEB/usr/share/wordnet < WORDS    prints each word with NLTK's lemma (as a noun, then as a verb)
    python make.py words DATA > WORDS                     prints the 10,000 most frequent words of the training sets

Only single words of the letters a to z are used. `irregular.tsv` has the lemma of every word in the exception lists.
"""

import collections
import csv
import glob
import pathlib
import re
import shutil
import sys
import tempfile

WORD = re.compile(r"[a-z]+$")
NOUN_RULES = [("s", ""), ("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man"), ("ies", "y")]
VERB_RULES = [("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")]


def index(path):
    heads = (line.split(" ", 1)[0] for line in open(path, encoding="ascii") if not line.startswith(" "))
    return {head for head in heads if WORD.match(head)}


def exceptions(path):
    rows = (line.split() for line in open(path, encoding="ascii"))
    return {row[0]: row[1:] for row in rows if all(map(WORD.match, row))}


def morphy(word, known, irregular, rules):
    forms = irregular.get(word) or [word[: -len(old)] + new for old, new in rules if word.endswith(old)]
    found = [form for form in [word, *forms] if form in known]
    return min(found, key=len) if found else word


def lists(wordnet):
    nouns, verbs = (index(wordnet / f"index.{kind}") for kind in ("noun", "verb"))
    of_nouns, of_verbs = (exceptions(wordnet / f"{kind}.exc") for kind in ("noun", "verb"))

    def lemma(word):
        while True:
            # Like WordNet's own morphy, but unlike NLTK: `boss` is not a plural of `bos`, nor `us` of `u`.
            noun = word if len(word) <= 2 or word.endswith("ss") else morphy(word, nouns, of_nouns, NOUN_RULES)
            verb = morphy(noun, verbs, of_verbs, VERB_RULES)
            if verb == word:
                return word
            word = verb

    here = pathlib.Path(__file__).parent
    for name, words in [("nouns.txt", nouns), ("verbs.txt", verbs)]:
        (here / name).write_text("".join(f"{word}\n" for word in sorted(words)))
    irregular = sorted({**of_nouns, **of_verbs})
    (here / "irregular.tsv").write_text("".join(f"{word}\t{lemma(word)}\n" for word in irregular))


def pairs(wordnet):
    import nltk
    from nltk.corpus.reader import wordnet as reader

    # NLTK reads its copy of WordNet 3.0 together with a file of names and a sense index, neither of which lemmas need.
    reader.WordNetCorpusReader.map_wn = lambda self, version="wordnet": None
    with tempfile.TemporaryDirectory() as folder:
        corpus = pathlib.Path(folder) / "corpora" / "wordnet"
        corpus.mkdir(parents=True)
        for file in wordnet.iterdir():
            shutil.copy(file, corpus)
        (corpus / "lexnames").write_text("".join(f"{at:02}\tname{at}\t1\n" for at in range(45)))
        nltk.data.path = [folder]
        lemmatizer = nltk.stem.WordNetLemmatizer()
        for word in sys.stdin.read().split():
            print(word, lemmatizer.lemmatize(lemmatizer.lemmatize(word, "n"), "v"), sep="\t")


def texts(data):
    with open(data / "crowdflower/text_emotion.csv", encoding="utf-8", errors="replace", newline="") as file:
        yield from (row["content"] for row in csv.DictReader(file))
    for part in ("train", "dev"):
        yield from (line.split("\t")[0] for line in open(data / f"goemotions/{part}.tsv", encoding="utf-8"))
    for path in sorted(glob.glob(f"{data}/tweeteval/emotion/*_text.txt")):
        yield from open(path, encoding="utf-8")
    yield from (line.rsplit(";", 1)[0] for line in open(data / "carer/train.txt", encoding="utf-8"))


def words(data):
    counts = collections.Counter()
    for text in texts(data):
        text = re.sub(r"https?://\S+|www\.\S+|@\w+", " ", text).lower()
        counts.update(re.findall("[a-z]+", text))
    print("\n".join(word for word, _ in counts.most_common(10_000)))


if __name__ == "__main__":
    {"lists": lists, "pairs": pairs, "words": words}[sys.argv[1]](pathlib.Path(sys.argv[2]))
