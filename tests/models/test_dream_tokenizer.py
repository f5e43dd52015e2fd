"""Dream's tokenizer from the released files, without the code that was released with them."""

import json
import logging
import sys
import unicodedata
from itertools import pairwise

import pytest
import regex
import transformers
from tokenizers import Tokenizer, pre_tokenizers, trainers
from tokenizers import models as kinds

from dpad import demo
from dpad.models import hf

V5 = int(transformers.__version__.split(".")[0]) >= 5
# How Qwen2 and Dream split text before merging (tokenizer_config and code of the releases).
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CORPUS = ["Hello world, it's 2024. We'll see naïve cafés", "def f(x):\n    return x + 1\n\n"] * 20
# In the releases' order; after the vocabulary, as theirs are (151643, ..., 151665, 151666).
ADDED = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<tool_call>",
    "<|beginoftext|>",
    "<|mask|>",
)
NOT_SPECIAL = "<tool_call>"
NAMED = {
    "bos_token": "<|beginoftext|>",
    "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
    "mask_token": "<|mask|>",
}
TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant."
    "<|im_end|>\n{% endif %}{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXTS = (
    "Hello world",
    " Hello  world\t\n\n  it's WE'LL 20241 don't",
    "def f(x):\n    return x + 1\r\n",
    "naïve cafe\u0301 — 日本語 \U0001f600 Ångström ﬁ",
    "<|im_start|>user\nHi<|im_end|>\n<tool_call>{}<|mask|><|mask|> <|mas k|>",
    "",
)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    """Texts of vocab.json and merges.txt: a small byte-level BPE."""
    trained = Tokenizer(kinds.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = pre_tokenizers.ByteLevel.alphabet()
    options = {"vocab_size": 340, "initial_alphabet": letters, "show_progress": False}
    trained.train_from_iterator(CORPUS, trainers.BpeTrainer(**options))
    path = tmp_path_factory.mktemp("vocabulary")
    trained.model.save(str(path))
    return {name: (path / name).read_text("utf-8") for name in ("vocab.json", "merges.txt")}


def token_entry(content, special=None):
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    return {"content": content, **flags, **({} if special is None else {"special": special})}


@pytest.fixture
def folder(tmp_path, vocabulary):
    """A checkpoint folder with the released tokenizer files; its code must never run."""
    first = len(json.loads(vocabulary["vocab.json"]))
    ids = {token: first + i for i, token in enumerate(ADDED)}
    decoder = {str(i): token_entry(t, t != NOT_SPECIAL) for t, i in ids.items()}
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": decoder,
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        **NAMED,
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "model_max_length": 131072,
        "split_special_tokens": False,
        "tokenizer_class": "DreamTokenizer",
        "unk_token": None,
    }
    files = {
        **vocabulary,
        "added_tokens.json": json.dumps(dict(sorted(ids.items()))),
        "special_tokens_map.json": json.dumps({k: token_entry(v) for k, v in NAMED.items()}),
        "tokenizer_config.json": json.dumps(config),
        "config.json": json.dumps({"model_type": "Dream", "architectures": ["DreamModel"]}),
        "tokenization_dream.py": "raise AssertionError('code from the checkpoint ran')\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text, "utf-8")
    return tmp_path


def edit(path, **changes):
    """Changes fields of a JSON file; None removes one."""
    found = {**json.loads(path.read_text("utf-8")), **changes}
    path.write_text(json.dumps({k: v for k, v in found.items() if v is not None}), "utf-8")


def byte_letters():
    """The letter that stands for each byte: itself if printable, else one from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


class Plain:
    """The released algorithm restated: added tokens, NFC, splitting, merges by rank."""

    def __init__(self, files):
        self.ids = json.loads(files["vocab.json"])
        lines = files["merges.txt"].splitlines()[1:]
        self.ranks = {tuple(line.split()): i for i, line in enumerate(lines)}
        self.added = {t: len(self.ids) + i for i, t in enumerate(ADDED)}
        self.letters = byte_letters()

    def encode(self, text):
        out = []
        cut = regex.compile("(" + "|".join(map(regex.escape, ADDED)) + ")")
        for piece in cut.split(text):
            if piece in self.added:
                out.append(self.added[piece])
                continue
            for word in regex.findall(PATTERN, unicodedata.normalize("NFC", piece)):
                out += [self.ids[t] for t in self.merge([self.letters[b] for b in word.encode()])]
        return out

    def merge(self, word):
        while True:
            pairs = [self.ranks.get(p, len(self.ranks)) for p in pairwise(word)]
            if not pairs or min(pairs) == len(self.ranks):
                return word
            best, merged, i = min(pairs), [], 0
            while i < len(word):
                wide = 2 if i < len(pairs) and pairs[i] == best else 1
                merged.append("".join(word[i : i + wide]))
                i += wide
            word = merged


def test_encodes_as_released(folder, vocabulary):
    tokenizer, plain = hf.AutoTokenizer.from_pretrained(folder), Plain(vocabulary)
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        assert ids == plain.encode(text)
        assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)
    assert len(tokenizer(TEXTS[1])["input_ids"]) < len(TEXTS[1])  # merges took place


def test_special_tokens(folder, vocabulary):
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    first = len(json.loads(vocabulary["vocab.json"]))
    assert tokenizer.convert_tokens_to_ids(list(ADDED)) == [first + i for i in range(len(ADDED))]
    for name, token in NAMED.items():
        assert getattr(tokenizer, name) == token
    assert len(tokenizer) == first + len(ADDED)
    assert tokenizer.model_max_length == 131072
    ids = tokenizer("a<|mask|><tool_call>b<|im_end|>")["input_ids"]
    assert tokenizer.mask_token_id in ids and tokenizer.bos_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a<tool_call>b"
    # Ids of the padded vocabulary that no token has: a model can predict them.
    assert tokenizer.decode([*ids, first + len(ADDED) + 30], skip_special_tokens=True).startswith(
        "a"
    )


@pytest.mark.parametrize("place", ("configuration", "file"))
def test_chat_template(folder, place):
    if place == "file":
        edit(folder / "tokenizer_config.json", chat_template=None)
        (folder / "chat_template.jinja").write_text(TEMPLATE)
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    turns = [{"role": "user", "content": "Hi"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    found = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)
    assert found["input_ids"] == tokenizer(text)["input_ids"]


def test_padding_on_either_side(folder):
    tokenizer = hf.AutoTokenizer.from_pretrained(folder, padding_side="left")
    batch = tokenizer(["Hello world, it's 2024", "x"], padding=True)
    assert batch["attention_mask"][1][-1] == 1 and batch["attention_mask"][1][0] == 0
    assert batch["input_ids"][1][0] == tokenizer.pad_token_id


def test_older_files_list_added_tokens_apart(folder):
    want = [hf.AutoTokenizer.from_pretrained(folder)(t)["input_ids"] for t in TEXTS]
    edit(folder / "tokenizer_config.json", added_tokens_decoder=None)
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    assert [tokenizer(t)["input_ids"] for t in TEXTS] == want


@pytest.fixture
def logged():
    """Messages of Transformers' tokenizer module (its loggers do not reach the root)."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    log = logging.getLogger("transformers.tokenization_utils_base")
    log.addHandler(handler)
    yield messages
    log.removeHandler(handler)


def test_no_code_of_the_checkpoint_runs(folder, logged):
    before = set(sys.modules)
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    assert type(tokenizer).__module__.startswith("transformers.models.qwen2")
    assert not [m for m in set(sys.modules) - before if "tokenization_dream" in m]
    assert not logged
    transformers.Qwen2TokenizerFast.from_pretrained(folder)
    assert logged or V5  # elsewhere Transformers warns as before, where it does
    # Transformers' own way stops at that code.
    with pytest.raises(ValueError, match="trust_remote_code"):
        transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def test_a_saved_copy_needs_no_code_either(folder, tmp_path):
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    copy = tmp_path / "copy"
    tokenizer.save_pretrained(copy)
    assert "auto_map" not in json.loads((copy / "tokenizer_config.json").read_text())
    for loaded in (
        transformers.AutoTokenizer.from_pretrained(copy),
        hf.AutoTokenizer.from_pretrained(copy),
    ):
        assert [loaded(t)["input_ids"] for t in TEXTS] == [tokenizer(t)["input_ids"] for t in TEXTS]
        assert loaded.mask_token == "<|mask|>" and loaded.chat_template == TEMPLATE


def test_bad_input_is_named(folder, tmp_path):
    with pytest.raises(TypeError, match="trust_remote_code"):
        hf.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    edit(folder / "tokenizer_config.json", tokenizer_class="OtherTokenizer")
    with pytest.raises(ValueError, match="custom code"):
        hf.AutoTokenizer.from_pretrained(folder)
    with pytest.raises((OSError, ValueError)):
        hf.AutoTokenizer.from_pretrained(tmp_path / "nothing here")


def test_other_tokenizers_are_transformers_own(tmp_path):
    """The shipped model's type is unknown to Transformers, the class of its tokenizer is not."""
    shipped = hf.AutoTokenizer.from_pretrained(demo.model_folder())
    assert shipped.decode(shipped("by 3 forward from", add_special_tokens=False)["input_ids"])
    only = tmp_path / "only"
    shipped.save_pretrained(only)
    again = hf.AutoTokenizer.from_pretrained(only)
    assert again("by 3")["input_ids"] == shipped("by 3")["input_ids"]
