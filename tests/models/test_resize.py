"""`resize_token_embeddings`: the new ids are embedded, predicted, saved and loaded."""

import copy

import pytest
import torch

import dpad
from dpad.models import hf
from dpad.models import llada as llada_family
from dpad.models.adapter import find_adapter
from tests.doubles import remote
from tests.generation.common import META, logits
from tests.models.small_llada import small_model

OPTIONS = {"max_new_tokens": 16, "block_length": 8, "threshold": 0.6, "seed": 3, "cache": "dual"}


@pytest.fixture
def tied():
    """A native LLaDA whose head is the embedding and whose table is longer than its vocabulary."""
    return small_model(weight_tying=True)


@pytest.fixture(params=("llada", "tied", "dream"))
def native(request):
    return request.getfixturevalue(request.param)


def resized(model, rows):
    """The model with as many ids; those that are new are told apart and likely to be predicted."""
    before = model.get_input_embeddings().weight.shape[0]
    model.resize_token_embeddings(rows, mean_resizing=False)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for table in dict.fromkeys((model.get_input_embeddings(), model.get_output_embeddings())):
            table.weight[before:].normal_(0, table.weight[:before].std(), generator=generator)
            table.weight[before:] *= 10
    return before


def test_saved_loaded_and_decoded(native, tmp_path):
    rows = native.get_input_embeddings().weight.shape[0] + 9
    before = resized(native, rows)
    ids = torch.tensor([[5, before, 7, rows - 1, 9, 6]])
    found = dpad.generate(native, ids, **OPTIONS)
    assert (found[:, 6:] >= before).any() and (found < rows).all()
    assert logits(native, ids).shape == (1, 6, rows)
    native.save_pretrained(tmp_path)
    again = hf.AutoModel.from_pretrained(tmp_path)
    assert logits(again, ids).equal(logits(native, ids))
    with dpad.patch(again):
        assert again.generate(ids, **OPTIONS).equal(found)
        with pytest.raises(ValueError, match=f"holds id {rows}, the vocabulary has {rows} ids"):
            again.generate([[rows]], **OPTIONS)


def test_configuration_names_the_rows(llada):
    llada.resize_token_embeddings(pad_to_multiple_of=128)
    assert (llada.config.vocab_size, llada.config.embedding_size) == (384, 384)
    kept = copy.deepcopy(llada.config.to_dict())
    assert llada.resize_token_embeddings() is llada.get_input_embeddings()
    assert llada.config.to_dict() == kept


def test_fewer_ids_than_the_mask_s_are_refused(native):
    mask = find_adapter(native).mask_id
    native.resize_token_embeddings(mask)
    with pytest.raises(ValueError, match=f"mask_token_id = {mask}: the vocabulary has {mask} ids"):
        dpad.generate(native, [[5, 6, 7]], **OPTIONS)


@pytest.mark.parametrize("revision", (1, 2))
def test_released_code_resized_under_the_patch(weights, revision):
    """Its inner configuration keeps the old sizes: what counts is the embedding."""
    stock = remote.llada_model(META["config"], revision, weights)
    stock.config.tie_word_embeddings = False  # else transformers 4.57 leaves the head as it is
    with dpad.patch(stock):
        stock.generate([[5, 6, 7]], **OPTIONS)
        resized(stock, 330)
        found = stock.generate([[5, 329, 321]], **OPTIONS)
    assert stock.model.config.embedding_size == 320
    assert (found[:, 3:] >= 320).any()
    assert found.equal(dpad.generate(stock, [[5, 329, 321]], **OPTIONS))


@pytest.mark.parametrize("added", (0, 6))
def test_tokens_added_to_the_released_tokenizer_keep_its_end_ids(added):
    fields = {"vocab_size": 126464 + added, "embedding_size": 126464 + added}
    fields |= {"mask_token_id": 126336, "eos_token_id": 126081}
    with torch.device("meta"):
        model = hf.LLaDAModelLM(hf.LLaDAConfig(**{**META["config"], **fields}))
    assert llada_family.adapt(model).end_ids == (126081, 126348)
