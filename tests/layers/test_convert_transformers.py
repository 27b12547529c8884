"""Transformers become quantized: our own with tied weights, and those of the package transformers if it is there."""

import pytest
import torch
from torch import nn

from hypersign.layers import OwnForward, QuantLinear, convert
from hypersign.models import gpt
from hypersign.quantizers import BitNet, Identity, Int8, Quantization

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
TOKENS = torch.randint(50, (2, 9), generator=torch.Generator().manual_seed(0))


def test_a_tied_embedding_stays_tied():
    torch.manual_seed(0)
    net = gpt((9,), 50, Quantization(Identity(), Identity()), width=16, blocks=1, heads=2).eval()
    net.head.weight = net.embedding.weight
    found = convert(net, weight_quantizer=BitNet(), input_quantizer=Int8(), keep=["head", "embedding"])
    assert found.model.head.weight is found.model.embedding.weight
    assert len(found.converted) == 7
    both = convert(net, weight_quantizer=BitNet(), input_quantizer=Int8()).model
    assert isinstance(both.head, QuantLinear)
    assert both.head.weight is both.embedding.weight
    both(TOKENS).square().sum().backward()
    assert both.embedding.weight.grad is not None
    with torch.no_grad():
        assert torch.equal(convert(net, weight_quantizer=Identity()).model(TOKENS), net(TOKENS))


@pytest.mark.parametrize(("name", "layers"), [("Bert", 17), ("Llama", 16), ("T5", 38), ("ViT", 14), ("GPT2", 11)])
def test_models_of_transformers(name, layers):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    tokens = {"input_ids": TOKENS}
    if name == "Bert":
        net = transformers.BertForMaskedLM(transformers.BertConfig(**SIZES))
    elif name == "Llama":
        config = transformers.LlamaConfig(**SIZES, num_key_value_heads=2, tie_word_embeddings=True)
        net = transformers.LlamaForCausalLM(config)
    elif name == "T5":
        config = transformers.T5Config(vocab_size=50, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
        net, tokens = transformers.T5ForConditionalGeneration(config), {**tokens, "decoder_input_ids": TOKENS}
    elif name == "GPT2":  # its layers are Conv1D, which store their weights as columns
        config = transformers.GPT2Config(
            vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=16, bos_token_id=0, eos_token_id=0
        )
        net = transformers.GPT2LMHeadModel(config)
    else:
        sizes = {key: value for key, value in SIZES.items() if key != "vocab_size"}
        config = transformers.ViTConfig(**sizes, image_size=16, patch_size=4)
        net, tokens = transformers.ViTForImageClassification(config), {"pixel_values": torch.randn(2, 3, 16, 16)}
    net.eval()
    found = convert(net, weight_quantizer=BitNet(), input_quantizer=Int8())
    assert len(found.converted) == layers
    assert list(found.model.state_dict()) == list(net.state_dict())
    with torch.no_grad():
        assert torch.equal(convert(net, weight_quantizer=Identity()).model(**tokens).logits, net(**tokens).logits)
    found.model(**tokens).logits.square().sum().backward()
    for head in ("lm_head", "cls.predictions.decoder"):
        if head in dict(net.named_modules()):
            assert found.model.get_submodule(head).weight is found.model.get_input_embeddings().weight
    kinds = (*(nn.Linear, nn.Conv2d, nn.Embedding), *([OwnForward] if name == "GPT2" else []))
    assert all(isinstance(found.model.get_submodule(layer), kinds) for layer in found.converted)
