"""The tokenizer of the tiny models: one token per character of the demo vocabulary."""

import json

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from dpad.demo import task

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def write_tokenizer(folder):
    """One token per character; the special tokens have LLaDA's names."""
    ids = {token: index for index, token in enumerate(task.VOCABULARY)}
    # The unknown token is no entry: text outside the vocabulary raises instead of vanishing.
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<|unknown|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(task.SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    # Written by hand: each Transformers version writes what only it can read.
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": task.START,
        "eos_token": task.END,
        "pad_token": task.END,
        "mask_token": task.MASK,
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "left",
        "additional_special_tokens": [task.USER, task.ASSISTANT],
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1024,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
